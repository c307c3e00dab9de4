//! rustls configurations and the verifier that runs inside the handshake.

use crate::appraise::{Appraisal, Appraise, Refusal};
use crate::certificate::{parse_certificate, CertificateError, PeerCertificate};
use crate::freshness::NotFresh;
use crate::identity::Identity;
use mesatee_custody::verify_ed25519;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::Resumption;
use rustls::crypto::{aws_lc_rs, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, DigitallySignedStruct,
    DistinguishedName, Error, PeerMisbehaved, ServerConfig, SignatureScheme,
};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The only application protocol (RFC 7301).
pub const ALPN: &[u8] = b"mesatee/1";
/// Label of the exporter that connections show to the app as channel binding. It differs from the one that the freshness
/// signatures cover, so that whatever an app signs over its binding is no freshness proof.
const BINDING_LABEL: &[u8] = b"EXPORTER-mesatee-binding";

/// Why there is no verified connection.
pub enum Failure {
    /// The appraiser of this end refused.
    Appraisal(Refusal),
    /// The peer's certificate, signature, freshness or protocol is not acceptable.
    Peer(String),
    /// The peer refused this end.
    Refused(String),
    /// Not within the deadline.
    TimedOut,
    /// No connection to the address, or it broke.
    Unreachable(String),
    /// This machine lacks something.
    Local(String),
}

impl Failure {
    /// A sentence for this process's own records.
    pub fn reason(&self) -> String {
        match self {
            Self::Appraisal(refusal) => refusal.reason.clone(),
            Self::Peer(reason)
            | Self::Refused(reason)
            | Self::Unreachable(reason)
            | Self::Local(reason) => reason.clone(),
            Self::TimedOut => "not verified in time".into(),
        }
    }

    fn of_io(error: &io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(Error::AlertReceived(alert)) => {
                Self::Refused(format!("the peer refused us (TLS alert {alert:?})"))
            }
            Some(other) => Self::Peer(format!("the handshake broke: {other}")),
            // No alert: it died or was cut off. Whoever refuses says so.
            None => {
                Self::Unreachable("the peer closed the connection before it was verified".into())
            }
        }
    }
}

impl From<NotFresh> for Failure {
    fn from(error: NotFresh) -> Self {
        match error {
            NotFresh::Io(error) => Self::of_io(&error),
            NotFresh::Signature => {
                Self::Peer("the peer's freshness signature is not of this session".into())
            }
            NotFresh::NotAccepted => Self::Refused("the peer refused our freshness proof".into()),
            NotFresh::System => Self::Local("the system gave no randomness".into()),
        }
    }
}

#[derive(Default)]
struct Progress {
    peer: Option<PeerCertificate>,
    appraisal: Option<Appraisal>,
    failure: Option<Failure>,
}

/// The verifier of one handshake. Made anew for each, so that what it finds belongs to exactly one connection.
pub(crate) struct Check {
    appraiser: Arc<dyn Appraise>,
    deadline: Instant,
    progress: Mutex<Progress>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Check")
    }
}

impl Check {
    pub(crate) fn new(appraiser: Arc<dyn Appraise>, deadline: Instant) -> Arc<Self> {
        Arc::new(Self {
            appraiser,
            deadline,
            progress: Mutex::default(),
        })
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep the reason for ourselves; the peer gets the alert of `alert`.
    fn refuse(&self, failure: Failure, alert: TlsCertificateError) -> Error {
        self.progress().failure = Some(failure);
        Error::InvalidCertificate(alert)
    }

    /// Steps 1 to 3: one certificate, of the right form, within its validity.
    fn certificate(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if !intermediates.is_empty() {
            let failure = Failure::Peer("the peer sent more than one certificate".into());
            return Err(self.refuse(failure, TlsCertificateError::BadEncoding));
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let parsed = parse_certificate(end_entity)
            .and_then(|peer| peer.check_validity(now).map(|()| peer))
            .map_err(|error| {
                let alert = match error {
                    CertificateError::OutsideValidity => TlsCertificateError::Expired,
                    _ => TlsCertificateError::BadEncoding,
                };
                self.refuse(Failure::Peer(error.message().into()), alert)
            })?;
        self.progress().peer = Some(parsed);
        Ok(())
    }

    /// Steps 4 and 5: the peer holds the key; the appraiser accepts. The appraiser sees only peers that passed the rest.
    fn signature_then_appraisal(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = self.progress().peer.clone();
        let Some(peer) = known.filter(|peer| peer.der() == certificate.as_ref()) else {
            let failure = Failure::Peer("the peer's certificate changed".into());
            return Err(self.refuse(failure, TlsCertificateError::BadEncoding));
        };
        if signed.scheme != SignatureScheme::ED25519 {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        if verify_ed25519(peer.public(), signed.signature(), message).is_err() {
            let failure = Failure::Peer("the peer's handshake signature does not verify".into());
            return Err(self.refuse(failure, TlsCertificateError::BadSignature));
        }
        // The appraiser may wait for a lock or a verifier service: the runtime moves its other tasks to another thread.
        let verdict = tokio::task::block_in_place(|| self.appraiser.appraise(&peer));
        let appraisal = verdict.map_err(|refusal| {
            let failure = Failure::Appraisal(refusal);
            self.refuse(failure, TlsCertificateError::ApplicationVerificationFailure)
        })?;
        if Instant::now() > self.deadline {
            let alert = TlsCertificateError::ApplicationVerificationFailure;
            return Err(self.refuse(Failure::TimedOut, alert));
        }
        self.progress().appraisal = Some(appraisal);
        Ok(HandshakeSignatureValid::assertion())
    }

    /// What the finished handshake found. Fails if any step was skipped.
    pub(crate) fn finish(
        &self,
        alpn: Option<&[u8]>,
    ) -> Result<(PeerCertificate, Appraisal), Failure> {
        if alpn != Some(ALPN) {
            return Err(Failure::Peer("the peer does not speak mesatee/1".into()));
        }
        let mut progress = self.progress();
        match (progress.peer.take(), progress.appraisal.take()) {
            (Some(peer), Some(appraisal)) => Ok((peer, appraisal)),
            _ => Err(Failure::Peer("the peer was not verified".into())),
        }
    }

    /// Why the handshake failed: our own reason if we have one, else what the connection says.
    pub(crate) fn failure(&self, error: &io::Error) -> Failure {
        let own = self.progress().failure.take();
        own.unwrap_or_else(|| Failure::of_io(error))
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

impl ServerCertVerifier for Check {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.certificate(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature_then_appraisal(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Check {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.certificate(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature_then_appraisal(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Shows our certificate only to clients that offer our protocol. rustls itself lets a client without ALPN pass.
#[derive(Debug)]
struct OnlyOurProtocol {
    certified: Arc<CertifiedKey>,
    check: Arc<Check>,
}

impl ResolvesServerCert for OnlyOurProtocol {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered = hello
            .alpn()
            .is_some_and(|mut protocols| protocols.any(|name| name == ALPN));
        if !offered {
            let failure = Failure::Peer("the client does not offer ALPN mesatee/1".into());
            self.check.progress().failure = Some(failure);
            return None;
        }
        Some(self.certified.clone())
    }
}

/// TLS 1.3 with one key exchange, classical and post-quantum at once (draft-ietf-tls-ecdhe-mlkem).
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    })
}

/// The server's configuration for one handshake.
pub(crate) fn server_config(
    identity: &Identity,
    check: &Arc<Check>,
) -> Result<Arc<ServerConfig>, Failure> {
    let resolver = OnlyOurProtocol {
        certified: identity.certified.clone(),
        check: check.clone(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(local)?
        .with_client_cert_verifier(check.clone())
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the verifier: give out no tickets, remember no session, take no early data.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The client's configuration for one handshake.
pub(crate) fn client_config(
    identity: &Identity,
    check: &Arc<Check>,
) -> Result<Arc<ClientConfig>, Failure> {
    let certified = SingleCertAndKey::from(identity.certified.clone());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(local)?
        .dangerous()
        .with_custom_certificate_verifier(check.clone())
        .with_client_cert_resolver(Arc::new(certified));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // Names prove nothing here; the key and the evidence do.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The exporters of a finished handshake: for the freshness signatures, and for the app.
pub(crate) fn exporters<Data>(
    connection: &rustls::ConnectionCommon<Data>,
) -> Result<([u8; 32], [u8; 32]), Failure> {
    let export = |label| {
        connection
            .export_keying_material([0; 32], label, None)
            .map_err(local)
    };
    Ok((
        export(crate::freshness::EXPORTER_LABEL)?,
        export(BINDING_LABEL)?,
    ))
}

fn local(error: Error) -> Failure {
    Failure::Local(format!("TLS cannot be set up: {error}"))
}
