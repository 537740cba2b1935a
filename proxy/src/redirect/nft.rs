//! The rules as one script for `nft -f`: one transaction, which replaces what was there.

use std::fmt::Write;

use super::rules::{Chain, Match, Rule, Rules, Table, Verdict};

/// Our table.
pub(super) const TABLE: &str = "inet ferromesh";

/// Removes the table, whether it exists or not: to declare it first makes the deletion never fail.
pub(super) fn remove() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

/// The whole script.
pub(super) fn script(rules: &Rules, ipv6: bool) -> String {
    let mut text = remove();
    let _ = writeln!(text, "table {TABLE} {{");
    for chain in rules.chains() {
        let _ = writeln!(text, "\tchain {} {{", name(chain));
        for rule in rules.list.iter().filter(|rule| rule.chain == chain) {
            let _ = writeln!(text, "\t\t{}", line(rule));
        }
        text += "\t}\n";
    }
    // -100 is the priority of destination NAT, in both hooks; its name is known in one of them only. -300 is before tracking.
    for (base, kind, chains) in [
        ("PREROUTING", "nat hook prerouting priority -100", &[Chain::Inbound][..]),
        ("OUTPUT", "nat hook output priority -100", &[Chain::Output, Chain::OutputDns]),
        ("RAW_PREROUTING", "filter hook prerouting priority -300", &[Chain::ZoneInbound]),
        ("RAW_OUTPUT", "filter hook output priority -300", &[Chain::ZoneOutput]),
    ] {
        let there: Vec<Chain> = rules.chains().filter(|chain| chains.contains(chain)).collect();
        if there.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\tchain {base} {{\n\t\ttype {kind}; policy accept;");
        for chain in there {
            let family = if ipv6 { "" } else { "meta nfproto ipv4 " };
            let _ = writeln!(text, "\t\t{family}meta l4proto {} jump {}", chain.transport().name(), name(chain));
        }
        text += "\t}\n";
    }
    if rules.drop_invalid {
        text += "\tchain ISTIO_DROP {\n\t\ttype filter hook prerouting priority mangle; policy accept;\n";
        text += if ipv6 {
            "\t\tct state invalid drop\n\t}\n"
        } else {
            "\t\tmeta nfproto ipv4 ct state invalid drop\n\t}\n"
        };
    }
    text += "}\n";
    text
}

/// The name of a chain; all stand in one table here.
fn name(chain: Chain) -> String {
    let prefix = if chain.table() == Table::Raw { "RAW_" } else { "" };
    format!("{prefix}{}", chain.name())
}

fn line(rule: &Rule) -> String {
    let transport = rule.chain.transport().name();
    let mut words: Vec<String> = rule.matches.iter().map(|one| condition(one, transport)).collect();
    words.push(match rule.verdict {
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {}", name(chain)),
        Verdict::RedirectTo(port) => format!("meta l4proto {transport} redirect to :{port}"),
        Verdict::Zone(zone) => format!("ct zone set {zone} return"),
    });
    words.join(" ")
}

fn condition(one: &Match, transport: &str) -> String {
    let ip = |net: &ipnet::IpNet| if net.addr().is_ipv4() { "ip" } else { "ip6" };
    match one {
        Match::InInterface(name) => format!("iifname \"{name}\""),
        Match::OutInterface(name) => format!("oifname \"{name}\""),
        Match::Source(net) => format!("{} saddr {net}", ip(net)),
        Match::Destination(net) => format!("{} daddr {net}", ip(net)),
        Match::NotDestination(net) => format!("{} daddr != {net}", ip(net)),
        Match::Port(port) => format!("{transport} dport {port}"),
        Match::NotPort(port) => format!("{transport} dport != {port}"),
        Match::SourcePort(port) => format!("{transport} sport {port}"),
        Match::Uid(uid) => format!("meta skuid {uid}"),
        Match::NotUid(uid) => format!("meta skuid != {uid}"),
        Match::Gid(gid) => format!("meta skgid {gid}"),
        Match::NotGid(gid) => format!("meta skgid != {gid}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::rules::rules;
    use super::super::settings::tests::{args, settings};
    use super::*;

    #[test]
    fn the_defaults_are_istios() {
        let settings = args(&[]).settings().unwrap();
        let expected = "table inet ferromesh
delete table inet ferromesh
table inet ferromesh {
	chain ISTIO_REDIRECT {
		meta l4proto tcp redirect to :15001
	}
	chain ISTIO_IN_REDIRECT {
		meta l4proto tcp redirect to :15006
	}
	chain ISTIO_INBOUND {
		tcp dport 15008 return
		tcp dport 15090 return
		tcp dport 15021 return
		tcp dport 15020 return
		jump ISTIO_IN_REDIRECT
	}
	chain ISTIO_OUTPUT {
		oifname \"lo\" ip saddr 127.0.0.6/32 return
		oifname \"lo\" ip daddr != 127.0.0.1/32 tcp dport != 15008 meta skuid 1337 jump ISTIO_IN_REDIRECT
		oifname \"lo\" meta skuid != 1337 return
		meta skuid 1337 return
		oifname \"lo\" ip daddr != 127.0.0.1/32 tcp dport != 15008 meta skgid 1337 jump ISTIO_IN_REDIRECT
		oifname \"lo\" meta skgid != 1337 return
		meta skgid 1337 return
		ip daddr 127.0.0.1/32 return
		jump ISTIO_REDIRECT
	}
	chain PREROUTING {
		type nat hook prerouting priority -100; policy accept;
		meta nfproto ipv4 meta l4proto tcp jump ISTIO_INBOUND
	}
	chain OUTPUT {
		type nat hook output priority -100; policy accept;
		meta nfproto ipv4 meta l4proto tcp jump ISTIO_OUTPUT
	}
}
";
        assert_eq!(script(&rules(&settings), false), expected);
    }

    #[test]
    fn dns_goes_to_the_proxy_but_not_the_proxys_own() {
        let resolvers = ["10.96.0.10", "fd00::a"];
        let settings = settings(&["--redirect-dns", "--ipv6", "-g", "7", "-c", "eth1"], &resolvers);
        let text = script(&rules(&settings), settings.ipv6);
        let expected = "	chain ISTIO_OUTPUT_DNS {
		oifname \"eth1\" return
		udp dport 53 meta skuid 1337 return
		udp dport 53 meta skgid 7 return
		udp dport 53 ip daddr 10.96.0.10/32 meta l4proto udp redirect to :15053
		udp dport 53 ip6 daddr fd00::a/128 meta l4proto udp redirect to :15053
	}
	chain RAW_ISTIO_OUTPUT_DNS {
		udp dport 53 meta skuid 1337 ct zone set 1 return
		udp sport 15053 meta skuid 1337 ct zone set 2 return
		udp dport 53 meta skgid 7 ct zone set 1 return
		udp sport 15053 meta skgid 7 ct zone set 2 return
		udp dport 53 ip daddr 10.96.0.10/32 ct zone set 2 return
		udp dport 53 ip6 daddr fd00::a/128 ct zone set 2 return
	}
	chain RAW_ISTIO_INBOUND {
		udp sport 53 ip saddr 10.96.0.10/32 ct zone set 1 return
		udp sport 53 ip6 saddr fd00::a/128 ct zone set 1 return
	}
";
        assert!(text.contains(expected), "{text}");
        for line in [
            "\t\toifname \"lo\" meta skuid != 1337 tcp dport != 53 return\n",
            "\t\tmeta skgid 7 return\n\t\ttcp dport 53 ip daddr 10.96.0.10/32 meta l4proto tcp redirect to :15053\n",
            "\t\tmeta l4proto tcp jump ISTIO_OUTPUT\n\t\tmeta l4proto udp jump ISTIO_OUTPUT_DNS\n",
            "\t\ttype filter hook output priority -300; policy accept;\n\t\tmeta l4proto udp jump RAW_ISTIO_OUTPUT_DNS\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn each_flag_makes_its_rule() {
        for (flags, chain, expected) in [
            (&["-x", "10.0.0.0/8"][..], "OUTPUT", "\t\tip daddr 10.0.0.0/8 return\n\t\tjump ISTIO_REDIRECT\n"),
            (&["-i", "10.0.0.0/8"], "OUTPUT", "\t\tip daddr 10.0.0.0/8 jump ISTIO_REDIRECT\n\t}"),
            (&["-i", ""], "OUTPUT", "\t\tip daddr 127.0.0.1/32 return\n\t}"),
            (&["-o", "3306"], "OUTPUT", "{\n\t\ttcp dport 3306 return\n"),
            (&["-q", "9000", "-i", ""], "OUTPUT", "\t\ttcp dport 9000 jump ISTIO_REDIRECT\n\t}"),
            (&["-b", "80,443"], "INBOUND", "return\n\t\ttcp dport 80 jump ISTIO_IN_REDIRECT\n\t\ttcp dport 443 jump"),
            (&["-b", ""], "INBOUND", "{\n\t\ttcp dport 15008 return\n\t}"),
            (&["-d", ""], "INBOUND", "{\n\t\ttcp dport 15008 return\n\t\tjump ISTIO_IN_REDIRECT"),
            (&["-c", "eth1"], "INBOUND", "{\n\t\tiifname \"eth1\" return"),
            (&["-c", "eth1"], "OUTPUT", "{\n\t\toifname \"eth1\" return"),
            (&["--ipv6"], "OUTPUT", "oifname \"lo\" ip6 saddr ::6/128 return"),
            (&["--ipv6"], "OUTPUT", "\t\tip6 daddr ::1/128 return\n\t\tjump ISTIO_REDIRECT"),
            (&["--ipv6"], "PREROUTING", "\t\tmeta l4proto tcp jump ISTIO_INBOUND"),
            (&["--drop-invalid"], "ISTIO_DROP", "meta nfproto ipv4 ct state invalid drop"),
            (&["-p", "1", "-z", "2"], "ISTIO_IN_REDIRECT", "redirect to :2"),
        ] {
            let settings = args(flags).settings().unwrap();
            let text = script(&rules(&settings), settings.ipv6);
            let start = text.find(&format!("{chain} {{")).unwrap();
            let body = &text[start..];
            let body = &body[..body.find("\t}").unwrap() + 2];
            assert!(body.contains(expected), "{flags:?}: {body}");
        }
        let settings = args(&["-i", "127.0.0.0/8"]).settings().unwrap();
        let text = script(&rules(&settings), false);
        assert!(!text.contains("skuid != 1337"), "loopback was asked for: {text}");
    }
}
