//! The rules as text for `iptables-restore --noflush`, where there is no nftables: one transaction a table.
//!
//! What exists is part of the answer, because a jump from a built-in chain would otherwise be there twice after the second run.

use std::fmt::Write;

use super::rules::{self, Chain, Family, Match, Rule, Rules, Verdict};

/// Chains of this name are ours, or Istio's own, which ours replace.
const PREFIX: &str = "ISTIO_";
const DROP: &str = "ISTIO_DROP";

/// The whole text for one IP version. `existing` is what `iptables-save` says.
pub(super) fn restore(rules: &Rules, family: Family, existing: &str) -> String {
    let existing = Existing::parse(existing);
    let mut text = String::new();
    for (name, table, existing) in
        [("nat", rules::Table::Nat, &existing.nat), ("raw", rules::Table::Raw, &existing.raw)]
    {
        let chains: Vec<Chain> = rules.chains().filter(|chain| chain.table() == table).collect();
        if chains.is_empty() && existing.is_empty() {
            continue;
        }
        let _ = writeln!(text, "*{name}");
        existing.replace(&chains.iter().map(|chain| chain.name()).collect::<Vec<_>>(), &mut text);
        for chain in &chains {
            if let Some(hook) = hook(*chain) {
                let _ = writeln!(text, "-A {hook} -p {} -j {}", chain.transport().name(), chain.name());
            }
        }
        let of_table = rules.list.iter().filter(|rule| rule.chain.table() == table);
        for rule in of_table.filter(|rule| rule.family().is_none_or(|only| only == family)) {
            let _ = writeln!(text, "{}", line(rule));
        }
        text += "COMMIT\n";
    }
    if rules.drop_invalid || !existing.mangle.is_empty() {
        text += "*mangle\n";
        existing.mangle.replace(if rules.drop_invalid { &[DROP] } else { &[] }, &mut text);
        if rules.drop_invalid {
            let _ = writeln!(text, "-A PREROUTING -m conntrack --ctstate INVALID -j {DROP}\n-A {DROP} -j DROP");
        }
        text += "COMMIT\n";
    }
    text
}

/// The built-in chain from which a chain is entered.
fn hook(chain: Chain) -> Option<&'static str> {
    match chain {
        Chain::Inbound | Chain::ZoneInbound => Some("PREROUTING"),
        Chain::Output | Chain::OutputDns | Chain::ZoneOutput => Some("OUTPUT"),
        Chain::Redirect | Chain::InRedirect => None,
    }
}

/// What removes all that is ours in `existing`; `None` if nothing is.
pub(super) fn remove(existing: &str) -> Option<String> {
    let existing = Existing::parse(existing);
    let mut text = String::new();
    for (name, table) in [("nat", &existing.nat), ("raw", &existing.raw), ("mangle", &existing.mangle)] {
        if !table.is_empty() {
            let _ = writeln!(text, "*{name}");
            table.replace(&[], &mut text);
            text += "COMMIT\n";
        }
    }
    (!text.is_empty()).then_some(text)
}

/// What is ours in a table.
#[derive(Debug, Default)]
struct Table {
    chains: Vec<String>,
    /// Rules of built-in chains that jump into ours, without `-A`.
    jumps: Vec<String>,
}

#[derive(Debug, Default)]
struct Existing {
    nat: Table,
    raw: Table,
    mangle: Table,
}

impl Existing {
    fn parse(save: &str) -> Self {
        let mut existing = Self::default();
        let mut ignored = Table::default();
        let mut table = "";
        for line in save.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.trim();
                continue;
            }
            let table = match table {
                "nat" => &mut existing.nat,
                "raw" => &mut existing.raw,
                "mangle" => &mut existing.mangle,
                _ => &mut ignored,
            };
            if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split_whitespace().next()) {
                if chain.starts_with(PREFIX) {
                    table.chains.push(chain.to_owned());
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let words: Vec<&str> = rule.split_whitespace().collect();
                let to_ours =
                    words.windows(2).any(|pair| matches!(pair[0], "-j" | "-g") && pair[1].starts_with(PREFIX));
                if to_ours && !rule.starts_with(PREFIX) {
                    table.jumps.push(rule.to_owned());
                }
            }
        }
        existing
    }
}

impl Table {
    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// Writes what makes `wanted` exist and be empty, and everything else of ours be gone.
    fn replace(&self, wanted: &[&str], text: &mut String) {
        // Declaring a chain with --noflush creates it, or empties it.
        let others = self.chains.iter().map(String::as_str).filter(|name| !wanted.contains(name));
        for chain in wanted.iter().copied().chain(others.clone()) {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for jump in &self.jumps {
            let _ = writeln!(text, "-D {jump}");
        }
        for chain in others {
            let _ = writeln!(text, "-X {chain}");
        }
    }
}

fn line(rule: &Rule) -> String {
    let mut words = vec![format!("-A {} -p {}", rule.chain.name(), rule.chain.transport().name())];
    words.extend(rule.matches.iter().map(condition));
    words.push(match rule.verdict {
        Verdict::Return => "-j RETURN".to_owned(),
        Verdict::Jump(chain) => format!("-j {}", chain.name()),
        Verdict::RedirectTo(port) => format!("-j REDIRECT --to-ports {port}"),
        Verdict::Zone(zone) => format!("-j CT --zone {zone}"),
    });
    words.join(" ")
}

fn condition(one: &Match) -> String {
    match one {
        Match::InInterface(name) => format!("-i {name}"),
        Match::OutInterface(name) => format!("-o {name}"),
        Match::Source(net) => format!("-s {net}"),
        Match::Destination(net) => format!("-d {net}"),
        Match::NotDestination(net) => format!("! -d {net}"),
        Match::Port(port) => format!("--dport {port}"),
        Match::NotPort(port) => format!("! --dport {port}"),
        Match::SourcePort(port) => format!("--sport {port}"),
        Match::Uid(uid) => format!("-m owner --uid-owner {uid}"),
        Match::NotUid(uid) => format!("-m owner ! --uid-owner {uid}"),
        Match::Gid(gid) => format!("-m owner --gid-owner {gid}"),
        Match::NotGid(gid) => format!("-m owner ! --gid-owner {gid}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::rules::rules;
    use super::super::settings::tests::{args, settings};
    use super::*;

    const EXISTING: &str = "*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_OLD - [0:0]
:MINE - [0:0]
-A OUTPUT -j MINE
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -j ISTIO_OLD
COMMIT
*mangle
:ISTIO_DROP - [0:0]
-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP
COMMIT
";

    #[test]
    fn the_defaults_are_istios() {
        let rules = rules(&args(&[]).settings().unwrap());
        let expected = "*nat
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -p tcp -o lo -s 127.0.0.6/32 -j RETURN
-A ISTIO_OUTPUT -p tcp -o lo ! -d 127.0.0.1/32 ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -p tcp -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -p tcp -o lo ! -d 127.0.0.1/32 ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -p tcp -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -p tcp -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -p tcp -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT
COMMIT
";
        assert_eq!(restore(&rules, Family::V4, ""), expected);
        let again = restore(&rules, Family::V4, expected);
        let jumps = "-D PREROUTING -p tcp -j ISTIO_INBOUND\n-D OUTPUT -p tcp -j ISTIO_OUTPUT\n";
        let second = expected.replacen("-A PREROUTING", &format!("{jumps}-A PREROUTING"), 1);
        assert_eq!(again, second, "the second run first takes the jumps away");
    }

    #[test]
    fn dns_goes_to_the_proxy_but_not_the_proxys_own() {
        let settings = settings(&["--redirect-dns", "--ipv6", "-g", "7"], &["10.96.0.10", "fd00::a"]);
        let rules = rules(&settings);
        let (v4, v6) = (restore(&rules, Family::V4, ""), restore(&rules, Family::V6, ""));
        let raw = "*raw
:ISTIO_OUTPUT_DNS - [0:0]
:ISTIO_INBOUND - [0:0]
-A OUTPUT -p udp -j ISTIO_OUTPUT_DNS
-A PREROUTING -p udp -j ISTIO_INBOUND
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --gid-owner 7 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --gid-owner 7 -j CT --zone 2
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d 10.96.0.10/32 -j CT --zone 2
-A ISTIO_INBOUND -p udp --sport 53 -s 10.96.0.10/32 -j CT --zone 1
COMMIT
";
        assert!(v4.ends_with(raw), "{v4}");
        for line in [
            "-A OUTPUT -p udp -j ISTIO_OUTPUT_DNS\n",
            "-A ISTIO_OUTPUT -p tcp -o lo -m owner ! --gid-owner 7 ! --dport 53 -j RETURN\n",
            "-A ISTIO_OUTPUT -p tcp --dport 53 -d 10.96.0.10/32 -j REDIRECT --to-ports 15053\n-A ISTIO_OUTPUT -p tcp -d 127.0.0.1/32",
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner 1337 -j RETURN\n",
            "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d 10.96.0.10/32 -j REDIRECT --to-ports 15053\n",
        ] {
            assert!(v4.contains(line), "{line}{v4}");
        }
        assert!(v6.contains("--dport 53 -d fd00::a/128 -j REDIRECT") && !v6.contains("10.96"), "{v6}");
        // Without it, what an earlier run left is taken away.
        let without = restore(&super::super::rules::rules(&args(&[]).settings().unwrap()), Family::V4, &v4);
        assert!(without.contains("*raw\n:ISTIO_OUTPUT_DNS - [0:0]\n:ISTIO_INBOUND - [0:0]\n-D OUTPUT -p udp -j ISTIO_OUTPUT_DNS\n-D PREROUTING -p udp -j ISTIO_INBOUND\n-X ISTIO_OUTPUT_DNS\n-X ISTIO_INBOUND\nCOMMIT\n"), "{without}");
        assert!(
            without.contains("-D OUTPUT -p udp -j ISTIO_OUTPUT_DNS\n-X ISTIO_OUTPUT_DNS\n-A PREROUTING"),
            "{without}"
        );
    }

    #[test]
    fn each_version_gets_the_rules_that_are_about_it() {
        let flags = ["--ipv6", "-x", "10.0.0.0/8,fd00::/8", "--drop-invalid"];
        let rules = rules(&args(&flags).settings().unwrap());
        let (v4, v6) = (restore(&rules, Family::V4, ""), restore(&rules, Family::V6, ""));
        assert!(v4.contains("-d 10.0.0.0/8") && !v4.contains("fd00") && !v4.contains("::1"), "{v4}");
        assert!(v6.contains("-d fd00::/8") && !v6.contains("10.0.0.0") && !v6.contains("127.0.0.1"), "{v6}");
        let drop = "*mangle\n:ISTIO_DROP - [0:0]\n-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP\n-A ISTIO_DROP -j DROP\nCOMMIT\n";
        assert!(v4.ends_with(drop) && v6.ends_with(drop), "{v4}");
    }

    #[test]
    fn what_was_there_is_replaced_and_what_is_not_ours_stays() {
        let rules = rules(&args(&[]).settings().unwrap());
        let text = restore(&rules, Family::V4, EXISTING);
        assert!(
            text.contains(":ISTIO_OLD - [0:0]\n-D OUTPUT -p tcp -j ISTIO_OUTPUT\n-X ISTIO_OLD\n-A PREROUTING"),
            "{text}"
        );
        assert!(text.ends_with("*mangle\n:ISTIO_DROP - [0:0]\n-D PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP\n-X ISTIO_DROP\nCOMMIT\n"), "{text}");
        assert!(!text.contains("MINE"));
    }

    #[test]
    fn cleanup_takes_all_that_is_ours() {
        let expected = "*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_OLD - [0:0]
-D OUTPUT -p tcp -j ISTIO_OUTPUT
-X ISTIO_OUTPUT
-X ISTIO_OLD
COMMIT
*mangle
:ISTIO_DROP - [0:0]
-D PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP
-X ISTIO_DROP
COMMIT
";
        assert_eq!(remove(EXISTING).as_deref(), Some(expected));
        assert_eq!(remove("*nat\n:MINE - [0:0]\nCOMMIT\n"), None);
        assert_eq!(remove(""), None);
    }
}
