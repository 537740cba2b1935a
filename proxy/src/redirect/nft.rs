//! The rules as one script for `nft -f`: one transaction, which replaces what was there.

use std::fmt::Write;

use super::rules::{Chain, Match, Rule, Rules, Verdict};

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
    for chain in Chain::ALL {
        let _ = writeln!(text, "\tchain {} {{", chain.name());
        for rule in rules.list.iter().filter(|rule| rule.chain == chain) {
            let _ = writeln!(text, "\t\t{}", line(rule));
        }
        text += "\t}\n";
    }
    let tcp = if ipv6 { "meta l4proto tcp" } else { "meta nfproto ipv4 meta l4proto tcp" };
    for (base, hook, chain) in [("PREROUTING", "prerouting", Chain::Inbound), ("OUTPUT", "output", Chain::Output)] {
        // -100 is the priority of destination NAT, in both hooks; its name is known in one of them only.
        let _ = writeln!(
            text,
            "\tchain {base} {{\n\t\ttype nat hook {hook} priority -100; policy accept;\n\t\t{tcp} jump {}\n\t}}",
            chain.name()
        );
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

fn line(rule: &Rule) -> String {
    let mut words: Vec<String> = rule.matches.iter().map(condition).collect();
    words.push(match rule.verdict {
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {}", chain.name()),
        Verdict::RedirectTo(port) => format!("meta l4proto tcp redirect to :{port}"),
    });
    words.join(" ")
}

fn condition(one: &Match) -> String {
    let ip = |net: &ipnet::IpNet| if net.addr().is_ipv4() { "ip" } else { "ip6" };
    match one {
        Match::InInterface(name) => format!("iifname \"{name}\""),
        Match::OutInterface(name) => format!("oifname \"{name}\""),
        Match::Source(net) => format!("{} saddr {net}", ip(net)),
        Match::Destination(net) => format!("{} daddr {net}", ip(net)),
        Match::NotDestination(net) => format!("{} daddr != {net}", ip(net)),
        Match::Port(port) => format!("tcp dport {port}"),
        Match::NotPort(port) => format!("tcp dport != {port}"),
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
    use super::super::settings::tests::args;
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
