//! Tests look-ups with a name server on loopback.

use super::*;
use tokio::net::TcpListener;

/// A resolver of one server that answers names under `good.example` with 192.0.2.7, those under
/// `long.example` by TCP alone, and is silent about others. Returns the questions too, as text.
async fn resolver() -> (Arc<Resolver>, Arc<Mutex<Vec<String>>>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    // Another test may have the port that is free for the one protocol.
    let (socket, listener) = loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
            break (socket, listener);
        }
    };
    let address = socket.local_addr().unwrap();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let record = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let question = buffer[..length].to_vec();
            let text = String::from_utf8_lossy(&question[12..length - 5]).into_owned();
            let is_long = text.contains("long");
            if is_long || text.contains("good") {
                let mut reply = reply(&question);
                if is_long {
                    reply[2] |= 2;
                }
                socket.send_to(&reply, client).await.unwrap();
            }
            record.lock().unwrap().push(text);
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut question).await.unwrap();
            let reply = reply(&question);
            let length = u16::try_from(reply.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    let files = [
        (
            "resolv.conf",
            format!("search corp.example\nnameserver {address}\noptions ndots:5\n"),
        ),
        (
            "hosts",
            "192.0.2.9 other\n192.0.2.8 listed Listed.Example # 192.0.2.10 listed\n".to_owned(),
        ),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let own =
        OwnUpstreams::from_variables(&[("upstream".to_owned(), "own.example".to_owned())].into());
    let resolver = Resolver {
        hosts_file: folder.path().join("hosts"),
        resolv_conf: folder.path().join("resolv.conf"),
        query_timeout: Duration::from_millis(200),
        ..Resolver::new(own)
    };
    (Arc::new(resolver), asked, folder)
}

/// One A record; no record of another type.
fn reply(question: &[u8]) -> Vec<u8> {
    let mut reply = question.to_vec();
    reply[2] = 0x81;
    if question[question.len() - 3] == 1 {
        reply[7] = 1;
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    }
    reply
}

#[tokio::test]
async fn resolves_addresses_listed_names_and_those_of_the_server() {
    let (resolver, _asked, _folder) = resolver().await;
    for (host, expected) in [
        ("192.0.2.1", &["192.0.2.1"][..]),
        ("2001:db8::1", &["2001:db8::1"]),
        ("127.1", &["127.0.0.1"]),
        ("0x7f000001", &["127.0.0.1"]),
        ("LISTED.example.", &["192.0.2.8"]),
        ("localhost", &["127.0.0.1", "::1"]),
        ("a.Good.example", &["192.0.2.7"]),
        ("a.long.example", &["192.0.2.7"]),
    ] {
        let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(resolver.lookup(host).await.unwrap(), expected, "{host}");
    }
}

#[tokio::test]
async fn takes_names_as_absolute() {
    let (resolver, asked, _folder) = resolver().await;
    for host in ["jenkins.build", "jenkins", "a b", "a..b"] {
        assert!(resolver.lookup(host).await.is_err(), "{host}");
    }
    let asked = asked.lock().unwrap();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|name| !name.contains("corp")), "{asked:?}");
}

#[tokio::test]
async fn slow_names_leave_look_ups_for_others() {
    let (resolver, asked, _folder) = resolver().await;
    let slow = (0..2000).map(|number| {
        let resolver = Arc::clone(&resolver);
        tokio::spawn(async move {
            resolver
                .lookup(&format!("n{number}.slow-{}.example", number % 100))
                .await
        })
    });
    let slow: Vec<_> = slow.collect();
    while resolver.others.available_permits() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(resolver.all.available_permits() >= OWN_LOOKUPS);
    // At once, and not after those that were first.
    let own = tokio::time::timeout(Duration::from_secs(1), resolver.lookup("good.own.example"));
    assert_eq!(
        own.await.unwrap().unwrap(),
        ["192.0.2.7".parse::<IpAddr>().unwrap()]
    );
    for task in slow {
        task.abort();
        assert!(task.await.map_or(true, |result| result.is_err()));
    }
    // Cancelled with those who asked.
    assert_eq!(resolver.all.available_permits(), MAX_LOOKUPS);
    assert!(!asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_domain_has_few_look_ups_at_a_time() {
    let (resolver, asked, _folder) = resolver().await;
    let lookups = (0..100).map(|number| {
        let resolver = Arc::clone(&resolver);
        async move { resolver.lookup(&format!("n{number}.slow.example")).await }
    });
    let all = futures::future::join_all(lookups);
    assert!(
        tokio::time::timeout(Duration::from_millis(150), all)
            .await
            .is_err()
    );
    let mut names = asked.lock().unwrap().clone();
    names.sort();
    names.dedup();
    assert!((1..=MAX_PER_DOMAIN).contains(&names.len()), "{names:?}");
}
