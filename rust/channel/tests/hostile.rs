//! Peers that speak TLS 1.3 well and get one thing wrong, against a real listener and a real `connect`.
//!
//! They are plain rustls, so that each test shows the one check that it names.

use mesatee_channel::{
    connect, make_certificate, spki, Accepted, Appraisal, Appraise, Failure, Identity, Listener,
    ListenerOptions, PeerCertificate, Refusal, ALPN,
};
use mesatee_custody::SigningKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{aws_lc_rs, CryptoProvider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const WAIT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Count(AtomicUsize);

impl Appraise for Count {
    fn appraise(&self, _peer: &PeerCertificate) -> Result<Appraisal, Refusal> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(()))
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

fn certificate(key: &SigningKey) -> Vec<u8> {
    make_certificate(key, "test", now() - 60, now() + 600, None).unwrap()
}

fn identity() -> Identity {
    let key = SigningKey::generate().unwrap();
    Identity::new(&certificate(&key), key).unwrap()
}

struct Server {
    listener: Listener,
    appraised: Arc<Count>,
    reasons: Receiver<String>,
}

fn server() -> Server {
    let appraised = Arc::new(Count::default());
    let (sender, reasons) = channel();
    let listener = Listener::bind(ListenerOptions {
        host: "127.0.0.1".into(),
        port: 0,
        identity: identity(),
        appraiser: appraised.clone(),
        report: Some(Box::new(move |_, reason| {
            let _ = sender.send(reason.to_owned());
        })),
        max_connections: 8,
        handshake: WAIT,
    })
    .ok()
    .unwrap();
    Server {
        listener,
        appraised,
        reasons,
    }
}

impl Server {
    /// The reason of the refusal, after so many appraisals; nobody got through.
    fn refused(&self, appraisals: usize) -> String {
        let reason = self.reasons.recv_timeout(WAIT).unwrap();
        assert_eq!(self.appraised.0.load(Ordering::SeqCst), appraisals);
        assert!(matches!(
            self.listener.accept(Duration::ZERO),
            Accepted::TimedOut
        ));
        reason
    }
}

// -- a hostile client --------------------------------------------------------------------------------

/// Accepts every server.
#[derive(Debug)]
struct Blind;

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ED25519,
            SignatureScheme::ECDSA_NISTP256_SHA256,
        ]
    }
}

/// PKCS #8 of an Ed25519 seed (RFC 8410, section 7), for rustls' own key loader.
fn pkcs8(key: &SigningKey) -> PrivateKeyDer<'static> {
    let head = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let der = key.with_seed(|seed| [head.as_slice(), seed].concat());
    PrivateKeyDer::try_from(der).unwrap()
}

struct Shown {
    chain: Vec<Vec<u8>>,
    key: PrivateKeyDer<'static>,
}

fn good() -> Shown {
    let key = SigningKey::generate().unwrap();
    Shown {
        chain: vec![certificate(&key)],
        key: pkcs8(&key),
    }
}

fn chain(shown: &Shown) -> Vec<CertificateDer<'static>> {
    let owned = shown.chain.iter().cloned();
    owned.map(CertificateDer::from).collect()
}

fn provider(group: &'static dyn rustls::crypto::SupportedKxGroup) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![group],
        ..aws_lc_rs::default_provider()
    })
}

fn hybrid() -> Arc<CryptoProvider> {
    provider(aws_lc_rs::kx_group::X25519MLKEM768)
}

fn client(shown: Option<Shown>, alpn: &[&[u8]], provider: Arc<CryptoProvider>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Blind));
    let mut config = match shown {
        Some(shown) => {
            // The resolver is set by hand: rustls' own constructor refuses a key that does not fit its certificate.
            let key = aws_lc_rs::sign::any_supported_type(&shown.key).unwrap();
            let certified = rustls::sign::CertifiedKey::new(chain(&shown), key);
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                certified,
            )))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// Handshake, send `after`, read to the end. The bytes that came, and how it ended.
fn attack(port: u16, config: ClientConfig, after: &[u8]) -> (Vec<u8>, std::io::Result<()>) {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(WAIT)).unwrap();
    let name = ServerName::try_from("test").unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tls = rustls::Stream::new(&mut session, &mut tcp);
    let mut got = Vec::new();
    let end = tls
        .write_all(after)
        .and_then(|()| tls.read_to_end(&mut got).map(drop));
    (got, end)
}

#[test]
fn a_client_without_certificate() {
    let server = server();
    let config = client(None, &[ALPN], hybrid());
    assert!(attack(server.listener.port(), config, &[0; 32]).1.is_err());
    assert!(server.refused(0).contains("peer sent no certificates"));
}

#[test]
fn a_client_of_another_protocol() {
    for alpn in [vec![], vec![b"h2".as_slice()], vec![b"mesatee/2"]] {
        let server = server();
        let config = client(Some(good()), &alpn, hybrid());
        assert!(attack(server.listener.port(), config, &[0; 32]).1.is_err());
        let reason = server.refused(0);
        assert!(
            reason.contains("ALPN") || reason.contains("known protocol"),
            "{reason}"
        );
    }
}

#[test]
fn a_client_with_another_key_exchange() {
    for group in [
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::MLKEM768,
    ] {
        let server = server();
        let config = client(Some(good()), &[ALPN], provider(group));
        assert!(attack(server.listener.port(), config, &[0; 32]).1.is_err());
        assert!(server.refused(0).contains("NoKxGroupsInCommon"));
    }
}

#[test]
fn a_client_with_two_certificates() {
    let server = server();
    let mut shown = good();
    shown
        .chain
        .push(certificate(&SigningKey::generate().unwrap()));
    let config = client(Some(shown), &[ALPN], hybrid());
    assert!(attack(server.listener.port(), config, &[0; 32]).1.is_err());
    assert_eq!(server.refused(0), "the peer sent more than one certificate");
}

#[test]
fn a_client_with_somebody_elses_certificate() {
    let server = server();
    let mut shown = good();
    shown.chain = good().chain;
    let config = client(Some(shown), &[ALPN], hybrid());
    assert!(attack(server.listener.port(), config, &[0; 32]).1.is_err());
    // The appraiser is not asked about a key that the peer does not hold.
    assert_eq!(
        server.refused(0),
        "the peer's handshake signature does not verify"
    );
}

#[test]
fn a_client_with_junk_for_a_certificate() {
    for junk in [vec![], vec![0; 100], vec![0x30; 60_000]] {
        let server = server();
        let mut shown = good();
        shown.chain = vec![junk];
        let config = client(Some(shown), &[ALPN], hybrid());
        assert!(attack(server.listener.port(), config, &[0; 32]).1.is_err());
        server.refused(0);
    }
}

#[test]
fn a_client_with_an_ecdsa_certificate() {
    let server = server();
    let key = rcgen::KeyPair::generate().unwrap();
    let der = rcgen::CertificateParams::default()
        .self_signed(&key)
        .unwrap();
    let shown = Shown {
        chain: vec![der.der().to_vec()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    };
    let config = client(Some(shown), &[ALPN], hybrid());
    assert!(attack(server.listener.port(), config, &[0; 32]).1.is_err());
    server.refused(0);
}

#[test]
fn a_client_that_plays_the_exchange_wrong() {
    // TLS and appraisal pass; what follows is not a freshness proof.
    let server = server();
    let config = client(Some(good()), &[ALPN], hybrid());
    let (got, _) = attack(server.listener.port(), config, &[7; 96]);
    // The server's nonce and signature came, `accepted` did not.
    assert_eq!(got.len(), 96);
    assert_eq!(
        server.refused(1),
        "the peer's freshness signature is not of this session"
    );
}

#[test]
fn a_client_gets_no_ticket() {
    #[derive(Debug, Default)]
    struct Watch(AtomicUsize);
    impl rustls::client::ClientSessionStore for Watch {
        fn set_kx_hint(&self, _: ServerName<'static>, _: rustls::NamedGroup) {}
        fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
            None
        }
        fn set_tls12_session(
            &self,
            _: ServerName<'static>,
            _: rustls::client::Tls12ClientSessionValue,
        ) {
        }
        fn tls12_session(
            &self,
            _: &ServerName<'_>,
        ) -> Option<rustls::client::Tls12ClientSessionValue> {
            None
        }
        fn remove_tls12_session(&self, _: &ServerName<'static>) {}
        fn insert_tls13_ticket(
            &self,
            _: ServerName<'static>,
            _: rustls::client::Tls13ClientSessionValue,
        ) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        fn take_tls13_ticket(
            &self,
            _: &ServerName<'static>,
        ) -> Option<rustls::client::Tls13ClientSessionValue> {
            None
        }
    }
    let server = server();
    let watch = Arc::new(Watch::default());
    let mut config = client(Some(good()), &[ALPN], hybrid());
    config.resumption = rustls::client::Resumption::store(watch.clone());
    let (got, _) = attack(server.listener.port(), config, &[7; 96]);
    assert_eq!(got.len(), 96);
    server.refused(1);
    assert_eq!(watch.0.load(Ordering::SeqCst), 0);
}

// -- a hostile server --------------------------------------------------------------------------------

/// Plain rustls as server: what `connect` says to it, and how often it appraised.
fn against(shown: Shown, alpn: &[&[u8]], after: &'static [u8]) -> (String, usize) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let builder = ServerConfig::builder_with_provider(hybrid())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth();
    let key = aws_lc_rs::sign::any_supported_type(&shown.key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(chain(&shown), key);
    let mut config =
        builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let thread = std::thread::spawn(move || {
        let (mut tcp, _) = socket.accept().unwrap();
        let mut session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut tls = rustls::Stream::new(&mut session, &mut tcp);
        let _ = tls
            .read_exact(&mut [0; 32])
            .and_then(|()| tls.write_all(after))
            .and_then(|()| tls.read_to_end(&mut Vec::new()).map(drop));
    });
    let appraiser = Arc::new(Count::default());
    let result = connect("127.0.0.1", port, &identity(), appraiser.clone(), WAIT);
    thread.join().unwrap();
    let reason = match result {
        Ok(_) => panic!("connected"),
        Err(Failure::Peer(reason)) => reason,
        Err(other) => panic!("{}", other.reason()),
    };
    (reason, appraiser.0.load(Ordering::SeqCst))
}

#[test]
fn a_server_without_our_protocol() {
    let (reason, _) = against(good(), &[], &[]);
    assert_eq!(reason, "the peer does not speak mesatee/1");
}

#[test]
fn a_server_with_two_certificates() {
    let mut shown = good();
    shown.chain.extend(good().chain);
    let (reason, appraised) = against(shown, &[ALPN], &[]);
    assert_eq!(reason, "the peer sent more than one certificate");
    assert_eq!(appraised, 0);
}

#[test]
fn a_server_with_somebody_elses_certificate() {
    let mut shown = good();
    shown.chain = good().chain;
    let (reason, appraised) = against(shown, &[ALPN], &[]);
    assert_eq!(reason, "the peer's handshake signature does not verify");
    assert_eq!(appraised, 0);
}

#[test]
fn a_server_that_plays_the_exchange_wrong() {
    let (reason, appraised) = against(good(), &[ALPN], &[7; 96]);
    assert_eq!(
        reason,
        "the peer's freshness signature is not of this session"
    );
    assert_eq!(appraised, 1);
}

// -- and the good case, so that the tests above fail for the reason that they name ----------------------

#[test]
fn good_peers_connect() {
    let server = server();
    let appraiser = Arc::new(Count::default());
    let ours = identity();
    let mut near = connect(
        "localhost",
        server.listener.port(),
        &ours,
        appraiser.clone(),
        WAIT,
    )
    .ok()
    .unwrap();
    let Accepted::Connection(mut far) = server.listener.accept(WAIT) else {
        panic!("nobody came");
    };
    assert_eq!(appraiser.0.load(Ordering::SeqCst), 1);
    assert_eq!(server.appraised.0.load(Ordering::SeqCst), 1);
    assert_eq!(near.exporter, far.exporter);
    assert_eq!(far.peer.spki(), spki(far.peer.public()));
    near.stream.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    far.stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
}
