//! Flags, as `istio-iptables` has them, and the checked values that they mean.

use std::net::{IpAddr, SocketAddr};

use clap::builder::FalseyValueParser;
use ipnet::IpNet;
use mesh_proto::names::port;

use super::{Backend, RedirectError};
use crate::dns::RESOLV_CONF;

/// Flags of `mesh-proxy redirect`. Short ones are those of `istio-iptables`, whose long names are understood too.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Apply the rules (the default)
    #[arg(long, conflicts_with_all = ["print", "cleanup"])]
    pub apply: bool,
    /// Print what would be applied
    #[arg(short = 'n', long, alias = "dry-run", conflicts_with = "cleanup")]
    pub print: bool,
    /// Remove the rules
    #[arg(long)]
    pub cleanup: bool,
    /// What applies them
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: Backend,
    /// Port to which outbound connections are redirected
    #[arg(short = 'p', long, alias = "envoy-port", value_name = "PORT", default_value_t = port::OUTBOUND)]
    pub outbound_port: u16,
    /// Port to which inbound connections are redirected
    #[arg(short = 'z', long, alias = "inbound-capture-port", value_name = "PORT", default_value_t = port::INBOUND)]
    pub inbound_port: u16,
    /// Port of HBONE tunnels, which are never redirected
    #[arg(short = 'e', long, alias = "inbound-tunnel-port", value_name = "PORT", default_value_t = port::HBONE)]
    pub tunnel_port: u16,
    /// User ids of the proxy, whose own connections are not captured
    #[arg(short = 'u', long, value_name = "UID,…", value_delimiter = ',', default_values_t = [port::PROXY_UID])]
    pub proxy_uid: Vec<u32>,
    /// Group ids of the proxy
    #[arg(short = 'g', long, value_name = "GID,…", value_delimiter = ',', default_values_t = [port::PROXY_UID])]
    pub proxy_gid: Vec<u32>,
    /// How inbound connections are captured; only REDIRECT is supported
    #[arg(
        short = 'm',
        long,
        alias = "istio-inbound-interception-mode",
        value_name = "MODE",
        default_value = "REDIRECT"
    )]
    pub mode: String,
    /// Inbound ports to capture: a list, `*` for all, empty for none
    #[arg(short = 'b', long, alias = "istio-inbound-ports", value_name = "PORT,…", default_value = "*")]
    pub inbound_ports: String,
    /// Inbound ports not to capture, when all others are
    #[arg(
        short = 'd',
        long,
        alias = "istio-local-exclude-ports",
        value_name = "PORT,…",
        default_value = "15090,15021,15020"
    )]
    pub exclude_inbound_ports: String,
    /// Outbound destinations to capture: a list of CIDRs, `*` for all, empty for none
    #[arg(short = 'i', long, alias = "istio-service-cidr", value_name = "CIDR,…", default_value = "*")]
    pub outbound_ranges: String,
    /// Outbound destinations not to capture
    #[arg(short = 'x', long, alias = "istio-service-exclude-cidr", value_name = "CIDR,…", default_value = "")]
    pub exclude_outbound_ranges: String,
    /// Outbound ports to capture whatever their destination
    #[arg(short = 'q', long, alias = "istio-outbound-ports", value_name = "PORT,…", default_value = "")]
    pub outbound_ports: String,
    /// Outbound ports not to capture
    #[arg(short = 'o', long, alias = "istio-local-outbound-ports-exclude", value_name = "PORT,…", default_value = "")]
    pub exclude_outbound_ports: String,
    /// Interfaces whose traffic is not captured
    #[arg(short = 'c', long, alias = "istio-exclude-interfaces", value_name = "NAME,…", default_value = "")]
    pub exclude_interfaces: String,
    /// Capture IPv6 as well as IPv4
    #[arg(long, alias = "dual-stack")]
    pub ipv6: bool,
    /// Addresses of the workload; if one is IPv6, both versions are captured, as by --ipv6
    #[arg(long, env = "INSTANCE_IPS", value_name = "IP,…", value_delimiter = ',')]
    pub instance_ips: Vec<IpAddr>,
    /// Drop packets that belong to no known connection
    #[arg(long)]
    pub drop_invalid: bool,
    /// Redirect DNS to the proxy's port 15053: questions to the resolvers of /etc/resolv.conf, by UDP and by TCP
    #[arg(
        long,
        env = "ISTIO_META_DNS_CAPTURE",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = FalseyValueParser::new()
    )]
    pub redirect_dns: bool,
    /// With --redirect-dns: questions to every resolver
    #[arg(
        long,
        env = "CAPTURE_ALL_DNS",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = FalseyValueParser::new()
    )]
    pub capture_all_dns: bool,
}

/// Checked values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where outbound connections go.
    pub outbound_port: u16,
    /// Where inbound connections go.
    pub inbound_port: u16,
    /// HBONE.
    pub tunnel_port: u16,
    /// Users that the proxy runs as.
    pub uids: Vec<u32>,
    /// Groups that the proxy runs as.
    pub gids: Vec<u32>,
    /// Inbound ports.
    pub inbound: Choice<u16>,
    /// Excluded from [`Choice::All`].
    pub exclude_inbound: Vec<u16>,
    /// Outbound destinations.
    pub outbound: Choice<IpNet>,
    /// Excluded from [`Settings::outbound`].
    pub exclude_outbound: Vec<IpNet>,
    /// Outbound ports that are captured whatever the destination.
    pub outbound_ports: Vec<u16>,
    /// Outbound ports that are never captured.
    pub exclude_outbound_ports: Vec<u16>,
    /// Interfaces that are left alone.
    pub exclude_interfaces: Vec<String>,
    /// IPv6 too.
    pub ipv6: bool,
    /// Drop packets of no known connection.
    pub drop_invalid: bool,
    /// Resolvers whose questions the proxy answers; absent leaves DNS alone.
    pub dns: Option<Choice<IpAddr>>,
}

/// `*`, or some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice<T> {
    /// All.
    All,
    /// These.
    Only(Vec<T>),
}

impl Args {
    /// Checks all values. Reads the system's resolvers if they are to be captured.
    pub fn settings(&self) -> Result<Settings, RedirectError> {
        self.settings_with(|| std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
    }

    fn settings_with(&self, resolv_conf: impl FnOnce() -> String) -> Result<Settings, RedirectError> {
        let refuse = |flag, reason: &str| Err(RedirectError::Flag { flag, reason: reason.to_owned() });
        match self.mode.as_str() {
            "REDIRECT" => {}
            "TPROXY" => return refuse("-m", "TPROXY is not supported yet; use REDIRECT"),
            other => return refuse("-m", &format!("`{other}` is not REDIRECT")),
        }
        let dns = match (self.redirect_dns, self.capture_all_dns) {
            (false, false) => None,
            (false, true) => return refuse("--capture-all-dns", "has no effect without --redirect-dns; give both"),
            (true, true) => Some(Choice::All),
            (true, false) => Some(Choice::Only(self.resolvers(&resolv_conf())?)),
        };
        for (flag, port) in [("-p", self.outbound_port), ("-z", self.inbound_port), ("-e", self.tunnel_port)] {
            if port == 0 {
                return refuse(flag, "a port lies between 1 and 65535");
            }
        }
        if self.outbound_port == self.inbound_port {
            return refuse("-z", "inbound and outbound connections cannot share a port");
        }
        if self.proxy_uid.is_empty() && self.proxy_gid.is_empty() {
            return refuse("-u", "without a user or group of the proxy its own connections would come back to it");
        }
        let ipv6 = self.captures_ipv6();
        let outbound = choice("-i", &self.outbound_ranges, range)?;
        let exclude_outbound = list("-x", &self.exclude_outbound_ranges, range)?;
        let only = if let Choice::Only(ranges) = &outbound { ranges.as_slice() } else { &[] };
        for (flag, ranges) in [("-i", only), ("-x", &exclude_outbound)] {
            if let Some(range) = ranges.iter().find(|range| range.addr().is_ipv6() && !ipv6) {
                return refuse(flag, &format!("{range} is IPv6, which is captured only with --ipv6"));
            }
        }
        Ok(Settings {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            tunnel_port: self.tunnel_port,
            uids: self.proxy_uid.clone(),
            gids: self.proxy_gid.clone(),
            inbound: choice("-b", &self.inbound_ports, port_number)?,
            exclude_inbound: list("-d", &self.exclude_inbound_ports, port_number)?,
            outbound,
            exclude_outbound,
            outbound_ports: list("-q", &self.outbound_ports, port_number)?,
            exclude_outbound_ports: list("-o", &self.exclude_outbound_ports, port_number)?,
            exclude_interfaces: list("-c", &self.exclude_interfaces, interface)?,
            ipv6,
            drop_invalid: self.drop_invalid,
            dns,
        })
    }

    fn captures_ipv6(&self) -> bool {
        self.ipv6 || self.instance_ips.iter().any(IpAddr::is_ipv6)
    }

    /// The resolvers of a `resolv.conf` that can be captured.
    fn resolvers(&self, resolv_conf: &str) -> Result<Vec<IpAddr>, RedirectError> {
        let refuse = |reason: String| RedirectError::Flag { flag: "--redirect-dns", reason };
        let mut settings = crate::dns::Settings::default();
        settings.take_resolv_conf(resolv_conf);
        if settings.resolvers.is_empty() {
            return Err(refuse(format!("{RESOLV_CONF} names no resolver; name one there, or add --capture-all-dns")));
        }
        let (captured, left): (Vec<IpAddr>, Vec<IpAddr>) = settings
            .resolvers
            .iter()
            .map(SocketAddr::ip)
            .partition(|resolver| resolver.is_ipv4() || self.captures_ipv6());
        match left.first() {
            Some(resolver) if captured.is_empty() => {
                Err(refuse(format!("{resolver} in {RESOLV_CONF} is IPv6, which is captured only with --ipv6")))
            }
            Some(resolver) => {
                tracing::warn!(%resolver, "is IPv6 and left alone; --ipv6 captures questions to it too");
                Ok(captured)
            }
            None => Ok(captured),
        }
    }
}

fn list<T>(flag: &'static str, text: &str, parse: fn(&str) -> Result<T, String>) -> Result<Vec<T>, RedirectError> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| parse(item).map_err(|reason| RedirectError::Flag { flag, reason })).collect()
}

fn choice<T>(flag: &'static str, text: &str, parse: fn(&str) -> Result<T, String>) -> Result<Choice<T>, RedirectError> {
    if text.trim() == "*" { Ok(Choice::All) } else { list(flag, text, parse).map(Choice::Only) }
}

fn port_number(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("`{text}` is not a port between 1 and 65535"))
}

/// A CIDR, or an address alone; bits beyond the prefix are cleared, because nft prints them so.
fn range(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    let net: IpNet = text.parse().or_else(|_| single()).map_err(|_| format!("`{text}` is not a CIDR"))?;
    Ok(net.trunc())
}

/// The kernel's names: at most 15 bytes. Only what needs no quoting anywhere.
fn interface(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@');
    if text.len() <= 15 && text.bytes().all(plain) && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not the name of an interface"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    pub(in crate::redirect) fn args(text: &[&str]) -> Args {
        Cli::try_parse_from(std::iter::once(&"redirect").chain(text)).unwrap().args
    }

    #[test]
    fn istio_init_arguments_are_understood() {
        let line = "-p 15001 -z 15006 -u 1337 -g 1337 -m REDIRECT -i * -x 10.1.2.3/8,fd00::1/64 -b * -d 15090,15021,15020 -o 3306 -q 9000 -c eth1 --dual-stack --drop-invalid";
        let settings = args(&line.split(' ').collect::<Vec<_>>()).settings().unwrap();
        assert_eq!(settings.exclude_outbound, ["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()]);
        assert_eq!(settings.outbound, Choice::All);
        assert_eq!(settings.inbound, Choice::All);
        assert_eq!(settings.exclude_inbound, [15090, 15021, 15020]);
        assert_eq!((settings.exclude_outbound_ports, settings.outbound_ports), (vec![3306], vec![9000]));
        assert!(settings.ipv6 && settings.drop_invalid);
        let long = args(&["--envoy-port", "1", "--inbound-capture-port", "2", "--istio-service-cidr", "10.0.0.1"]);
        let settings = long.settings().unwrap();
        assert_eq!((settings.outbound_port, settings.inbound_port), (1, 2));
        assert_eq!(settings.outbound, Choice::Only(vec!["10.0.0.1/32".parse().unwrap()]));
        for (addresses, ipv6) in [("10.0.0.1", false), ("10.0.0.1,fd00::1", true)] {
            assert_eq!(args(&["--instance-ips", addresses]).settings().unwrap().ipv6, ipv6, "{addresses}");
        }
        assert_eq!(args(&["-b", ""]).settings().unwrap().inbound, Choice::Only(vec![]));
    }

    /// The settings of a machine that asks these resolvers.
    pub(in crate::redirect) fn settings(flags: &[&str], resolvers: &[&str]) -> Settings {
        let text = || resolvers.iter().map(|resolver| format!("nameserver {resolver}\n")).collect::<String>();
        args(flags).settings_with(text).unwrap()
    }

    #[test]
    fn resolvers_whose_questions_are_captured_are_the_systems_or_all() {
        let both = ["10.96.0.10", "fd00::a"];
        let addresses = |all: &[&str]| Some(Choice::Only(all.iter().map(|text| text.parse().unwrap()).collect()));
        for (flags, expected) in [
            (&[][..], None),
            (&["--redirect-dns"], addresses(&both[..1])),
            (&["--redirect-dns=true", "--ipv6"], addresses(&both)),
            (&["--redirect-dns=false"], None),
            (&["--redirect-dns", "--capture-all-dns"], Some(Choice::All)),
        ] {
            assert_eq!(settings(flags, &both).dns, expected, "{flags:?}");
        }
        let error = args(&["--redirect-dns"]).settings_with(String::new).unwrap_err().to_string();
        assert!(error.starts_with("--redirect-dns: /etc/resolv.conf names no resolver"), "{error}");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (line, expected) in [
            (&["-m", "TPROXY"][..], "-m: TPROXY is not supported yet"),
            (&["-m", "x"], "-m: `x` is not REDIRECT"),
            (&["--capture-all-dns"], "--capture-all-dns: has no effect without"),
            (&["--redirect-dns"], "--redirect-dns: fd00::a in /etc/resolv.conf is IPv6"),
            (&["-b", "80,*"], "-b: `*` is not a port"),
            (&["-d", "0"], "-d: `0` is not a port"),
            (&["-o", "80;drop"], "-o: `80;drop` is not a port"),
            (&["-x", "*"], "-x: `*` is not a CIDR"),
            (&["-i", "10.0.0.0/33"], "-i: `10.0.0.0/33` is not a CIDR"),
            (&["-i", "fd00::/8"], "-i: fd00::/8 is IPv6"),
            (&["-c", "a\" accept"], "-c: `a\" accept` is not the name"),
            (&["-p", "15006"], "-z: inbound and outbound"),
            (&["-z", "0"], "-z: a port lies"),
        ] {
            let resolv_conf = || "nameserver fd00::a\n".to_owned();
            let error = args(line).settings_with(resolv_conf).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{line:?}: {error}");
        }
    }
}
