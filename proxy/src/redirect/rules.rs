//! The rules, independent of the tool: Istio's chains in Istio's order.
//!
//! Source: `istio-iptables`, `tools/istio-iptables/pkg/capture/run.go` of Istio.

use ipnet::IpNet;
use mesh_proto::names::port;

use super::settings::{Choice, Settings};

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(super) fn of(net: &IpNet) -> Self {
        if net.addr().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The loopback address that workloads use.
    fn loopback(self) -> IpNet {
        IpNet::from(match self {
            Self::V4 => std::net::IpAddr::from([127, 0, 0, 1]),
            Self::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
        })
    }

    /// The address from which the proxy connects to its own workload on ports without configuration: 127.0.0.6, `::6`.
    fn passthrough_source(self) -> IpNet {
        IpNet::from(match self {
            Self::V4 => std::net::IpAddr::from([127, 0, 0, 6]),
            Self::V6 => std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
        })
    }
}

/// A chain of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    /// Every inbound TCP connection.
    Inbound,
    /// To the inbound port.
    InRedirect,
    /// To the outbound port.
    Redirect,
    /// Every outbound TCP connection.
    Output,
    /// Every DNS question by UDP.
    OutputDns,
    /// Zones of what goes out, before connections are tracked.
    ZoneOutput,
    /// Zones of what comes in, before connections are tracked.
    ZoneInbound,
}

/// When a chain is gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Where destinations are changed.
    Nat,
    /// Before connections are tracked.
    Raw,
}

impl Chain {
    /// All; those that are jumped to come first, because nft wants them known.
    pub(super) const ALL: [Self; 7] = [
        Self::Redirect,
        Self::InRedirect,
        Self::Inbound,
        Self::Output,
        Self::OutputDns,
        Self::ZoneOutput,
        Self::ZoneInbound,
    ];

    /// When it is gone through.
    pub(super) fn table(self) -> Table {
        match self {
            Self::Inbound | Self::InRedirect | Self::Redirect | Self::Output | Self::OutputDns => Table::Nat,
            Self::ZoneOutput | Self::ZoneInbound => Table::Raw,
        }
    }

    /// What it is about.
    pub(super) fn transport(self) -> Transport {
        match self {
            Self::Inbound | Self::InRedirect | Self::Redirect | Self::Output => Transport::Tcp,
            Self::OutputDns | Self::ZoneOutput | Self::ZoneInbound => Transport::Udp,
        }
    }

    /// Istio's name, which its users look for in dumps. Names are told apart by their table there.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inbound => "ISTIO_INBOUND",
            Self::InRedirect => "ISTIO_IN_REDIRECT",
            Self::Redirect => "ISTIO_REDIRECT",
            Self::Output => "ISTIO_OUTPUT",
            Self::OutputDns | Self::ZoneOutput => "ISTIO_OUTPUT_DNS",
            Self::ZoneInbound => "ISTIO_INBOUND",
        }
    }
}

/// What packets belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// As both tools call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    InInterface(String),
    OutInterface(String),
    Source(IpNet),
    Destination(IpNet),
    NotDestination(IpNet),
    Port(u16),
    NotPort(u16),
    SourcePort(u16),
    Uid(u32),
    NotUid(u32),
    Gid(u32),
    NotGid(u32),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not captured.
    Return,
    /// Decided elsewhere.
    Jump(Chain),
    /// Sent to a local port.
    RedirectTo(u16),
    /// Tracked apart from other zones; the first that is said counts.
    Zone(u16),
}

/// One rule, about its chain's transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: Chain,
    pub(super) matches: Vec<Match>,
    pub(super) verdict: Verdict,
}

impl Rule {
    /// The only IP version that the rule is about, if its addresses say one.
    pub(super) fn family(&self) -> Option<Family> {
        self.matches.iter().find_map(|one| match one {
            Match::Source(net) | Match::Destination(net) | Match::NotDestination(net) => Some(Family::of(net)),
            _ => None,
        })
    }
}

/// All rules, and whether packets of no known connection are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) list: Vec<Rule>,
    pub(super) drop_invalid: bool,
}

impl Rules {
    /// The chains that there are.
    pub(super) fn chains(&self) -> impl Iterator<Item = Chain> {
        let has = |chain: Chain| self.list.iter().any(|rule| rule.chain == chain);
        Chain::ALL.into_iter().filter(move |chain| chain.transport() == Transport::Tcp || has(*chain))
    }
}

/// The rules for `settings`.
pub(super) fn rules(settings: &Settings) -> Rules {
    let mut list = Vec::new();
    let mut add = |chain, matches: &[Match], verdict| list.push(Rule { chain, matches: matches.to_vec(), verdict });
    add(Chain::Redirect, &[], Verdict::RedirectTo(settings.outbound_port));
    add(Chain::InRedirect, &[], Verdict::RedirectTo(settings.inbound_port));
    inbound(settings, &mut add);
    outbound(settings, &mut add);
    dns(settings, &mut add);
    Rules { list, drop_invalid: settings.drop_invalid }
}

fn inbound(settings: &Settings, add: &mut impl FnMut(Chain, &[Match], Verdict)) {
    let chain = Chain::Inbound;
    let capture = Verdict::Jump(Chain::InRedirect);
    for name in &settings.exclude_interfaces {
        add(chain, &[Match::InInterface(name.clone())], Verdict::Return);
    }
    add(chain, &[Match::Port(settings.tunnel_port)], Verdict::Return);
    match &settings.inbound {
        Choice::All => {
            for port in &settings.exclude_inbound {
                add(chain, &[Match::Port(*port)], Verdict::Return);
            }
            add(chain, &[], capture);
        }
        Choice::Only(ports) => {
            for port in ports {
                add(chain, &[Match::Port(*port)], capture);
            }
        }
    }
}

fn outbound(settings: &Settings, add: &mut impl FnMut(Chain, &[Match], Verdict)) {
    let chain = Chain::Output;
    let capture = Verdict::Jump(Chain::Redirect);
    let families: &[Family] = if settings.ipv6 { &[Family::V4, Family::V6] } else { &[Family::V4] };
    let lo = || Match::OutInterface("lo".to_owned());
    for name in &settings.exclude_interfaces {
        add(chain, &[Match::OutInterface(name.clone())], Verdict::Return);
    }
    // Before connections back to oneself are captured.
    for port in &settings.exclude_outbound_ports {
        add(chain, &[Match::Port(*port)], Verdict::Return);
    }
    for family in families {
        add(chain, &[lo(), Match::Source(family.passthrough_source())], Verdict::Return);
    }
    let loopback_wanted = match &settings.outbound {
        Choice::All => false,
        Choice::Only(ranges) => ranges.iter().any(|range| range.addr().is_loopback()),
    };
    let uids = settings.uids.iter().map(|uid| (Match::Uid(*uid), Match::NotUid(*uid)));
    let gids = settings.gids.iter().map(|gid| (Match::Gid(*gid), Match::NotGid(*gid)));
    for (proxy, others) in uids.chain(gids) {
        // A workload that calls its own service: the proxy picked its own pod, so the call still has to come in through it.
        for family in families {
            let elsewhere = Match::NotDestination(family.loopback());
            let not_tunnel = Match::NotPort(settings.tunnel_port);
            add(chain, &[lo(), elsewhere, not_tunnel, proxy.clone()], Verdict::Jump(Chain::InRedirect));
        }
        // A workload that calls itself by address never leaves it.
        if !loopback_wanted {
            let mut matches = vec![lo(), others];
            // A resolver on this machine, such as systemd's at 127.0.0.53.
            matches.extend(settings.dns.is_some().then_some(Match::NotPort(DNS)));
            add(chain, &matches, Verdict::Return);
        }
        // The proxy's own connections must not come back to it.
        add(chain, &[proxy], Verdict::Return);
    }
    for resolver in resolvers(settings, Match::Destination) {
        let matches: Vec<Match> = [Match::Port(DNS)].into_iter().chain(resolver).collect();
        add(chain, &matches, Verdict::RedirectTo(port::DNS));
    }
    for family in families {
        add(chain, &[Match::Destination(family.loopback())], Verdict::Return);
    }
    for range in &settings.exclude_outbound {
        add(chain, &[Match::Destination(*range)], Verdict::Return);
    }
    for port in &settings.outbound_ports {
        add(chain, &[Match::Port(*port)], capture);
    }
    match &settings.outbound {
        Choice::All => add(chain, &[], capture),
        Choice::Only(ranges) => {
            for range in ranges {
                add(chain, &[Match::Destination(*range)], capture);
            }
        }
    }
}

/// The port of resolvers.
const DNS: u16 = 53;
/// Where the proxy's questions to resolvers are tracked, and where those of the workload to the proxy.
const ZONES: (u16, u16) = (1, 2);

/// A condition for each resolver whose questions are captured, or one without any for all of them.
fn resolvers(settings: &Settings, condition: fn(IpNet) -> Match) -> Vec<Option<Match>> {
    match &settings.dns {
        None => Vec::new(),
        Some(Choice::All) => vec![None],
        Some(Choice::Only(resolvers)) => {
            resolvers.iter().map(|resolver| Some(condition(IpNet::from(*resolver)))).collect()
        }
    }
}

/// Questions by UDP. The proxy may ask a resolver from the very port from which the workload asked it; tracked together, the two would
/// be taken for one, and one of them would get no answer. So each has a zone of its own.
fn dns(settings: &Settings, add: &mut impl FnMut(Chain, &[Match], Verdict)) {
    if settings.dns.is_none() {
        return;
    }
    let uids = settings.uids.iter().map(|uid| Match::Uid(*uid));
    let proxies: Vec<Match> = uids.chain(settings.gids.iter().map(|gid| Match::Gid(*gid))).collect();
    for name in &settings.exclude_interfaces {
        add(Chain::OutputDns, &[Match::OutInterface(name.clone())], Verdict::Return);
    }
    for proxy in &proxies {
        add(Chain::OutputDns, &[Match::Port(DNS), proxy.clone()], Verdict::Return);
        add(Chain::ZoneOutput, &[Match::Port(DNS), proxy.clone()], Verdict::Zone(ZONES.0));
        add(Chain::ZoneOutput, &[Match::SourcePort(port::DNS), proxy.clone()], Verdict::Zone(ZONES.1));
    }
    let with = |first: Match, resolver: Option<Match>| -> Vec<Match> { [first].into_iter().chain(resolver).collect() };
    for resolver in resolvers(settings, Match::Destination) {
        add(Chain::OutputDns, &with(Match::Port(DNS), resolver.clone()), Verdict::RedirectTo(port::DNS));
        add(Chain::ZoneOutput, &with(Match::Port(DNS), resolver), Verdict::Zone(ZONES.1));
    }
    for resolver in resolvers(settings, Match::Source) {
        add(Chain::ZoneInbound, &with(Match::SourcePort(DNS), resolver), Verdict::Zone(ZONES.0));
    }
}
