//! Resolves host names: `/etc/hosts`, then the name servers of `/etc/resolv.conf`.
//!
//! The system's resolver blocks a thread for each look-up, which can't be cancelled, and appends
//! the search domains of `/etc/resolv.conf`: a client could name an internal host by its short
//! name. This one takes every name as absolute, and a look-up ends when it is dropped.

mod message;

use self::message::Answer;
use crate::limits::upstream::{OwnUpstreams, domain};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most look-ups at one time, and those of them that are for the operator's own upstreams.
const MAX_LOOKUPS: usize = 256;
const OWN_LOOKUPS: usize = 64;

/// The most look-ups at one time of names under one domain.
const MAX_PER_DOMAIN: usize = 16;

/// The number of domains beyond which those without look-ups are forgotten.
const MAX_DOMAINS: usize = 1024;

/// How long a name server may take, each time it is asked; and how often each is asked.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// The most name servers that are asked, as in the C library.
const MAX_SERVERS: usize = 3;

/// Bytes of an answer by UDP without extensions (RFC 1035, section 4.2.1). Longer ones come by TCP.
const MAX_UDP: usize = 512;

/// Resolves host names for all instances.
#[derive(Debug)]
pub struct Resolver {
    own: OwnUpstreams,
    hosts_file: PathBuf,
    resolv_conf: PathBuf,
    query_timeout: Duration,
    all: Arc<Semaphore>,
    /// What of `all` is for names that are not the operator's.
    others: Arc<Semaphore>,
    domains: Mutex<HashMap<Box<str>, Arc<Semaphore>>>,
}

impl Resolver {
    /// Keeps a part of the look-ups for the operator's `own` upstreams.
    pub fn new(own: OwnUpstreams) -> Self {
        Self {
            own,
            hosts_file: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            query_timeout: QUERY_TIMEOUT,
            all: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            others: Arc::new(Semaphore::new(MAX_LOOKUPS - OWN_LOOKUPS)),
            domains: Mutex::default(),
        }
    }

    /// Returns the addresses of `host`, a name or an IP address. It may have none.
    pub async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        // Other notations of IPv4 addresses, as the C library reads them (`127.1`, `0x7f000001`).
        if let Ok(url::Host::Ipv4(address)) = url::Host::parse(&name) {
            return Ok(vec![address.into()]);
        }
        if let Some(addresses) = self.listed_addresses(&name).await {
            return Ok(addresses);
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let _turn = self.turn(&name).await?;
        let servers = self.servers().await;
        let (v4, v6) = tokio::join!(
            self.ask(&servers, &name, message::A),
            self.ask(&servers, &name, message::AAAA),
        );
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => {
                let mut addresses = v4.unwrap_or_default();
                addresses.extend(v6.unwrap_or_default());
                Ok(addresses)
            }
        }
    }

    /// Waits until the name may be looked up. The caller limits the time.
    async fn turn(&self, name: &str) -> io::Result<Vec<OwnedSemaphorePermit>> {
        let mut semaphores = vec![Arc::clone(&self.all)];
        if !self.own.contains_domain_of(name) {
            semaphores.push(Arc::clone(&self.others));
            semaphores.push(self.of_domain(domain(name)));
        }
        let mut permits = Vec::new();
        // That of the domain first: who waits for it holds nothing that others need.
        for semaphore in semaphores.into_iter().rev() {
            let permit = semaphore.acquire_owned().await;
            permits.push(permit.map_err(io::Error::other)?);
        }
        Ok(permits)
    }

    fn of_domain(&self, domain: &str) -> Arc<Semaphore> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if domains.len() >= MAX_DOMAINS {
            domains.retain(|_, free| Arc::strong_count(free) > 1);
        }
        let free = domains
            .entry(domain.into())
            .or_insert_with(|| Arc::new(Semaphore::new(MAX_PER_DOMAIN)));
        Arc::clone(free)
    }

    /// Returns the addresses that `/etc/hosts` has for `name`; `None` if it has none.
    async fn listed_addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let text = tokio::fs::read_to_string(&self.hosts_file).await.ok()?;
        let addresses: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.split('#').next()?.split_whitespace();
                let address = fields.next()?.parse().ok()?;
                fields
                    .any(|alias| alias.trim_end_matches('.').eq_ignore_ascii_case(name))
                    .then_some(address)
            })
            .collect();
        (!addresses.is_empty()).then_some(addresses)
    }

    /// Returns the name servers of `/etc/resolv.conf`, read anew as networks change them.
    async fn servers(&self) -> Vec<SocketAddr> {
        let text = tokio::fs::read_to_string(&self.resolv_conf).await;
        let servers: Vec<_> = text
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver"))
            .filter_map(parse_server)
            .take(MAX_SERVERS)
            .collect();
        if servers.is_empty() {
            return vec![(Ipv4Addr::LOCALHOST, 53).into()];
        }
        servers
    }

    /// Asks the servers in turn for the records of type `kind`.
    async fn ask(&self, servers: &[SocketAddr], name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
        let mut failure = io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..ATTEMPTS {
            for server in servers {
                let query = query(*server, name, kind);
                match tokio::time::timeout(self.query_timeout, query).await {
                    Ok(Ok(addresses)) => return Ok(addresses),
                    Ok(Err(error)) => failure = error,
                    Err(_) => failure = io::ErrorKind::TimedOut.into(),
                }
            }
        }
        Err(failure)
    }
}

/// Parses a server: an address, as in `resolv.conf`. With a port it is for tests; the C library has
/// no such notation.
fn parse_server(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let address = text.parse::<IpAddr>().map(|ip| (ip, 53).into());
    // `fe80::1%eth0`: without its zone it can't be reached.
    address.ok().or_else(|| text.parse().ok())
}

/// Asks one server by UDP, and by TCP where the answer is too long.
async fn query(server: SocketAddr, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    // A connected socket on a port that the kernel chose, and a number that nobody can guess:
    // others can't forge the answer (RFC 5452).
    let id = u16::try_from(RandomState::new().hash_one(name) & 0xffff).unwrap_or_default();
    let question = message::question(id, name, kind)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut buffer = [0; MAX_UDP];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match message::answer(buffer.get(..length).unwrap_or_default(), &question) {
            Answer::Addresses(addresses) => return Ok(addresses),
            Answer::Truncated => return query_tcp(server, &question).await,
            Answer::Failed => return Err(io::Error::other("the name server failed")),
            // Not an answer to this question.
            Answer::Foreign => {}
        }
    }
}

async fn query_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<IpAddr>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).unwrap_or_default();
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(question).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    match message::answer(&answer, question) {
        Answer::Addresses(addresses) => Ok(addresses),
        _ => Err(io::Error::other("the name server failed")),
    }
}

#[cfg(test)]
mod tests;
