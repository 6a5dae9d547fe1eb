//! Where the faces of a running engine listen: one server, one router for each address, and how others find it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use axum::Router;

use crate::{
    access::Gatekeeper,
    faces,
    server::{Limits, Server, Tls, connections_within},
    topology::{Listen, Topology},
};

/// The routes of each face.
pub struct Faces {
    /// The front door.
    pub ingest: Router,
    /// The front door's calls of gRPC, on the same address.
    pub ingest_calls: Router,
    /// The feature API.
    pub features: Router,
    /// Health, metrics and `/api`.
    pub admin: Router,
    /// What every address has and everybody may ask: descriptions of the interfaces, and gRPC's own health.
    pub everywhere: Router,
}

impl Faces {
    /// The same, for those who may come in only.
    pub fn guarded(self, keeper: &Gatekeeper) -> Self {
        Self {
            ingest: keeper.ingest(self.ingest),
            ingest_calls: keeper.ingest_calls(self.ingest_calls),
            features: keeper.features(self.features),
            admin: keeper.admin(self.admin),
            everywhere: self.everywhere,
        }
    }
}

/// The server, and the addresses that the faces really have.
pub struct Listening {
    /// The server.
    pub server: Server,
    addresses: Listen,
}

impl Listening {
    /// Listens where the topology says.
    pub async fn start(topology: &Topology, faces: Faces) -> anyhow::Result<Self> {
        let http = &topology.http;
        let tls = http.tls.as_ref().map(|tls| Tls::load(&tls.cert, &tls.key, tls.client_ca.as_deref()));
        let wanted = usize::try_from(http.connections_max).unwrap_or(usize::MAX);
        let connections_max = connections_within(wanted);
        if connections_max < wanted {
            tracing::warn!(
                wanted,
                connections_max,
                "fewer connections than [http] connections_max: the process has no more file descriptors; raise ulimit -n"
            );
        }
        let server = Server::new(
            Limits {
                connections_max,
                header_timeout: http.header_timeout,
                idle_timeout: http.idle_timeout,
                write_timeout: http.write_timeout,
                ..Limits::default()
            },
            tls.transpose()?,
        );
        let mut groups: Vec<(SocketAddr, Router, Vec<&str>)> = Vec::new();
        let Faces { ingest, ingest_calls, features, admin, everywhere } = faces;
        let wanted = [
            (http.listen.ingest, ingest.merge(ingest_calls), "ingest"),
            (http.listen.features, features, "features"),
            (http.listen.admin, admin, "admin"),
        ];
        for (address, router, name) in wanted {
            match groups.iter_mut().find(|(known, ..)| *known == address) {
                Some((_, routes, names)) => {
                    *routes = std::mem::take(routes).merge(router);
                    names.push(name);
                }
                None => groups.push((address, router, vec![name])),
            }
        }
        let mut addresses = http.listen;
        for (address, router, names) in groups {
            let router = faces::fallback::add(router.merge(everywhere.clone()));
            let real = server.listen(address, router).await?;
            if !real.ip().to_canonical().is_loopback() && http.tls.is_none() && !topology.access.is_empty() {
                tracing::warn!(%real, "tokens come in clear text here: set tls in [http], or let a proxy before it encrypt");
            }
            for name in names {
                match name {
                    "ingest" => addresses.ingest = real,
                    "features" => addresses.features = real,
                    _ => addresses.admin = real,
                }
            }
        }
        Ok(Self { server, addresses })
    }

    /// Every address, for people.
    pub fn announcement(&self, engine: &str) -> String {
        let Listen { ingest, features, admin } = self.addresses;
        let scheme = self.server.scheme();
        let mut text = format!("keyloom {engine} runs: {scheme}://{ingest}\n");
        for (name, address) in [("features", features), ("admin", admin)] {
            if address != ingest {
                text.push_str(&format!("{name}: {scheme}://{address}\n"));
            }
        }
        text
    }

    /// What other commands need to find this process.
    pub fn owner(&self) -> String {
        let owner = Owner {
            pid: std::process::id(),
            listen: reachable(self.addresses.ingest),
            admin: Some(reachable(self.addresses.admin)),
        };
        serde_json::to_string(&owner).unwrap_or_default()
    }
}

/// What stands in the file by which commands find the engine that has a data folder.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Owner {
    pid: u32,
    /// Its front door.
    pub listen: SocketAddr,
    /// Its `/api`; absent where all faces have one address.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
}

impl Owner {
    /// From the text of the file.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        serde_json::from_str(text).context("the file that names the running engine makes no sense")
    }
}

/// The address by which this machine reaches what listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        let reached = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(reached("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(reached("[::]:80"), "[::1]:80");
        assert_eq!(reached("192.0.2.1:80"), "192.0.2.1:80");
        let old = Owner::read(r#"{"pid":7,"listen":"127.0.0.1:8080"}"#).expect("an older engine's");
        assert_eq!((old.listen.port(), old.admin), (8080, None));
    }
}
