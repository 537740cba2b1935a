//! Addresses for hosts of ServiceEntries that have none (SE8), so that clients whose DNS the proxy answers can be told which service they
//! dialed: without them all TCP services of one port look alike.
//!
//! An address follows from the name alone, so that it stays the same over restarts and in every control plane. Where two names fall on
//! one address, the older object keeps it and the younger one moves on; that is the only case in which another object matters, and so that
//! neither moves when the other goes, what an object's status records comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_proto::names::label;

use super::{Name, Registry, Resolution, Service};

/// How many addresses 240.240.0.0/16 has; the same number of the other version are in use.
const SLOTS: u32 = 1 << 16;

/// Addresses that objects record, by namespace and host.
pub type Recorded = BTreeMap<(Name, Name), Vec<IpAddr>>;

/// Gives addresses to all services that are to have some; those of one namespace and host share theirs.
pub fn allocate(services: &mut [Service], recorded: &Recorded) {
    let wanting = services.iter().filter(|service| wants(service));
    let mut names: BTreeMap<(Name, Name), i64> = BTreeMap::new();
    for service in wanting {
        let key = (service.namespace.clone(), service.host.clone());
        let created = names.entry(key).or_insert(service.created);
        *created = service.created.min(*created);
    }
    let mut order: Vec<_> = names.into_iter().map(|(key, created)| (created, key)).collect();
    order.sort();
    let mut taken = BTreeSet::new();
    let mut found = BTreeMap::new();
    for (_, key) in &order {
        let slot = recorded.get(key).and_then(|addresses| addresses.iter().find_map(slot));
        if let Some(slot) = slot.filter(|slot| !taken.contains(slot)) {
            taken.insert(slot);
            found.insert(key.clone(), slot);
        }
    }
    for (_, key) in order {
        if found.contains_key(&key) {
            continue;
        }
        match free_slot(&key, &taken) {
            Some(slot) => {
                taken.insert(slot);
                found.insert(key, slot);
            }
            None => tracing::error!(namespace = &*key.0, host = &*key.1, "240.240.0.0/16 is used up: no address"),
        }
    }
    for service in services.iter_mut().filter(|service| wants(service)) {
        if let Some(slot) = found.get(&(service.namespace.clone(), service.host.clone())) {
            service.auto_addresses = addresses(*slot).to_vec();
        }
    }
}

/// Hosts without address whose endpoints the mesh knows. Of a wildcard nobody asks for the address, and `NONE` goes where the client went.
fn wants(service: &Service) -> bool {
    service.registry == Registry::External
        && service.addresses.is_empty()
        && service.ranges.is_empty()
        && service.resolution != Resolution::Passthrough
        && !service.host.starts_with('*')
        && service.labels.get(label::ENABLE_AUTOALLOCATE_IP).is_none_or(|value| value != "false")
}

fn free_slot((namespace, host): &(Name, Name), taken: &BTreeSet<u16>) -> Option<u16> {
    let hash = xxhash_rust::xxh3::xxh3_64(format!("{namespace}/{host}").as_bytes());
    let start = u16::try_from(hash % u64::from(SLOTS)).unwrap_or_default();
    let usable = |slot: &u16| !matches!(slot & 0xff, 0 | 0xff);
    let mut candidates = (0..SLOTS).map(|step| start.wrapping_add(step as u16)).filter(usable);
    candidates.find(|slot| !taken.contains(slot))
}

/// The slot of an address that [`addresses`] gave.
fn slot(address: &IpAddr) -> Option<u16> {
    let slot = match address {
        IpAddr::V4(address) => {
            let [_, _, high, low] = address.octets();
            u16::from_be_bytes([high, low])
        }
        IpAddr::V6(address) => address.segments()[7],
    };
    (addresses(slot).contains(address) && !matches!(slot & 0xff, 0 | 0xff)).then_some(slot)
}

/// Networks of both versions that nobody routes (RFC 1112, RFC 5180), as Istio takes them.
fn addresses(slot: u16) -> [IpAddr; 2] {
    let [high, low] = slot.to_be_bytes();
    [Ipv4Addr::new(240, 240, high, low).into(), Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0xf0f0, slot).into()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::objects;
    use super::super::{Change, Model, Object};
    use super::*;

    fn entry(name: &str, spec: &str) -> String {
        format!("---\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop, {spec}\n")
    }

    fn found(yaml: &str) -> BTreeMap<String, Vec<IpAddr>> {
        let mut model = Model::default();
        model.apply(objects(yaml));
        let context = model.context();
        context.all_services().map(|service| (service.host.to_string(), service.auto_addresses.clone())).collect()
    }

    #[test]
    fn hosts_without_address_get_one_of_each_version() {
        let port = "ports: [{number: 80, name: http, protocol: HTTP}]";
        let yaml = [
            entry("dns", &format!("}}\nspec: {{hosts: [a.example, b.example], resolution: DNS, {port}}}")),
            entry("static", &format!("}}\nspec: {{hosts: [c.example], resolution: STATIC, {port}}}")),
            entry("wild", &format!("}}\nspec: {{hosts: ['*.d.example'], resolution: STATIC, {port}}}")),
            entry("none", &format!("}}\nspec: {{hosts: [e.example], resolution: NONE, {port}}}")),
            entry("has", &format!("}}\nspec: {{hosts: [f.example], addresses: [10.0.0.1], resolution: DNS, {port}}}")),
            entry("range", &format!("}}\nspec: {{hosts: [g.example], addresses: [10.1.0.0/16], resolution: DNS, {port}}}")),
            entry("off", &format!("labels: {{networking.istio.io/enable-autoallocate-ip: 'false'}}}}\nspec: {{hosts: [h.example], resolution: DNS, {port}}}")),
        ]
        .concat();
        let found = found(&yaml);
        let with: Vec<&str> = found.iter().filter(|(_, all)| !all.is_empty()).map(|(host, _)| host.as_str()).collect();
        assert_eq!(with, ["a.example", "b.example", "c.example"]);
        let mut all = BTreeSet::new();
        for host in with {
            let [IpAddr::V4(v4), IpAddr::V6(v6)] = found[host][..] else { unreachable!() };
            let [240, 240, high, low] = v4.octets() else { unreachable!() };
            assert_eq!(v6, format!("2001:2::f0f0:{:x}", u16::from_be_bytes([high, low])).parse::<Ipv6Addr>().unwrap());
            assert!(all.insert(v4), "{v4} twice");
        }
        // What else is there does not matter.
        let alone = "}\nspec: {hosts: [b.example], resolution: DNS, ports: [{number: 1, name: tcp, protocol: TCP}]}";
        assert_eq!(self::found(&entry("other", alone))["b.example"], found["b.example"]);
    }

    #[test]
    fn of_two_names_on_one_address_the_older_keeps_it() {
        let key = |name: &str| (Name::from("shop"), Name::from(name));
        let slot = |name: &str| free_slot(&key(name), &BTreeSet::new());
        let mut seen = BTreeMap::new();
        let (first, second) = (0..)
            .find_map(|number| {
                let name = format!("n{number}.example");
                seen.insert(slot(&name), name.clone()).map(|other| (other, name))
            })
            .unwrap();
        let spec = |created: u32, host: &str| {
            format!(
                "created: {created}}}\nspec: {{hosts: [{host}], resolution: STATIC, ports: [{{number: 1, name: tcp, protocol: TCP}}]}}"
            )
        };
        let expected = addresses(slot(&first).unwrap()).to_vec();
        for (one, other) in [(1, 2), (2, 1)] {
            let found = found(&(entry("one", &spec(one, &first)) + &entry("other", &spec(other, &second))));
            let (keeps, moves) = if one < other { (&first, &second) } else { (&second, &first) };
            assert_eq!(found[keeps], expected);
            assert_ne!(found[moves], expected);
        }
    }

    #[test]
    fn what_is_recorded_comes_first() {
        let yaml = entry(
            "one",
            "}\nspec: {hosts: [a.example], resolution: DNS, ports: [{number: 1, name: tcp, protocol: TCP}]}",
        );
        let record = |model: &mut Model, recorded: &[&str]| {
            let changes = objects(&yaml).into_iter().map(|change| match change {
                Change::Set(object) => {
                    let recorded = recorded.iter().map(|one| (Name::from("a.example"), one.parse().unwrap())).collect();
                    Change::Set(std::sync::Arc::new(Object { recorded, ..(*object).clone() }))
                }
                other => other,
            });
            model.apply(changes.collect())
        };
        let address = |model: &Model| model.context().all_services().next().unwrap().auto_addresses.clone();
        let mut model = Model::default();
        assert!(!record(&mut model, &[]).is_of_endpoints());
        let own = address(&model);
        // What the mesh itself wrote changes nothing.
        let texts: Vec<String> = own.iter().map(ToString::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert!(record(&mut model, &texts).is_none());
        for (recorded, expected) in [
            (&["240.240.1.2"][..], addresses(0x0102).to_vec()),
            (&["2001:2::f0f0:103", "240.240.1.3"], addresses(0x0103).to_vec()),
            (&["10.0.0.1", "2001:2::1", "240.240.1.0"], own.clone()),
        ] {
            assert!(!record(&mut model, recorded).is_of_endpoints(), "{recorded:?}");
            assert_eq!(address(&model), expected, "{recorded:?}");
        }
    }

    #[test]
    fn network_and_broadcast_addresses_are_left_out() {
        assert!((0..500).all(|number| {
            let slot = free_slot(&("n".into(), format!("h{number}").into()), &BTreeSet::new()).unwrap();
            !matches!(slot & 0xff, 0 | 0xff)
        }));
    }
}
