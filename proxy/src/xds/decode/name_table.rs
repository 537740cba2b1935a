//! `NameTable` → [`Table`], the names that the workload's DNS knows.

use std::net::IpAddr;

use mesh_proto::istio::nds::NameTable;

use super::{Decoded, Refusal};
use crate::dns::{Entry, Place, Table};

/// The registry whose services have short names.
const KUBERNETES: &str = "Kubernetes";

/// A whole table, as a workload of this place means it.
pub fn name_table(raw: &NameTable, place: &Place) -> Decoded<Table> {
    let mut entries = Vec::with_capacity(raw.table.len());
    for (host, info) in &raw.table {
        let parsed = info.ips.iter().enumerate().map(|(index, text)| {
            let path = || format!("table[\"{host}\"].ips[{index}]");
            text.parse::<IpAddr>().map_err(|_| Refusal::field(path(), format!("`{text}` is not an IP address")))
        });
        let short = (info.registry == KUBERNETES).then(|| (info.shortname.clone(), info.namespace.clone()));
        entries.push(Entry { host: host.clone(), addresses: parsed.collect::<Decoded<_>>()?, short });
    }
    Ok(Table::new(&entries, place))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use mesh_proto::istio::nds::name_table::NameInfo;

    use super::*;

    #[test]
    fn a_table_is_taken_whole_or_refused() {
        let info = |registry: &str, ip: &str| NameInfo {
            ips: vec![ip.into()],
            registry: registry.into(),
            shortname: "a".into(),
            namespace: "shop".into(),
        };
        let place = Place::new("shop", "shop.svc.cluster.local");
        let one = |registry: &str, ip: &str| NameTable {
            table: [("a.shop.svc.cluster.local".to_owned(), info(registry, ip))].into(),
        };
        let table = name_table(&one("Kubernetes", "10.0.0.1"), &place).unwrap();
        assert!(table.find("a.shop.svc.cluster.local").is_some() && table.find("a").is_some());
        let table = name_table(&one("External", "10.0.0.1"), &place).unwrap();
        assert!(table.find("a.shop.svc.cluster.local").is_some() && table.find("a").is_none());
        let refused = name_table(&one("External", "10.0.0.0/8"), &place).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "table[\"a.shop.svc.cluster.local\"].ips[0]: `10.0.0.0/8` is not an IP address"
        );
    }
}
