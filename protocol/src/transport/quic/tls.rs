//! TLS 1.3 with raw public keys (RFC 7250) on both sides.
//!
//! The identity key is the TLS key. There is no certificate: the handshake carries a
//! SubjectPublicKeyInfo of 44 bytes, 12 constant ones and the ed25519 key.
//!
//! The dialler puts the key it expects into the *server name*, which is never sent (no SNI): the one
//! verifier all dials share reads it from there. One client configuration for all peers is what makes
//! resumption possible, since rustls keeps tickets by server name and by verifier.

use std::sync::Arc;

use ghost_proto::{PeerId, PublicKey, record};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
    },
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::CertifiedKey,
};

use crate::Identity;

/// The protocol negotiated in the handshake.
pub const ALPN: &[u8] = b"ghost/1";

/// SubjectPublicKeyInfo of an ed25519 key (RFC 8410): these 12 bytes, then the key.
pub const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// PKCS #8 of an ed25519 seed (RFC 8410): these 16 bytes, then the seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Sessions a server remembers for resumption, about 1 KiB each. 0-RTT needs them to be kept by the
/// server, each usable once, so that early data cannot be replayed at will.
const RESUMPTION_SESSIONS: usize = 1024;

fn provider() -> CryptoProvider {
    CryptoProvider {
        // Post-quantum hybrid first, plain X25519 for who lacks it.
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn certified_key(identity: &Identity, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let mut spki = SPKI_PREFIX.to_vec();
    spki.extend_from_slice(&identity.public().0);
    let mut pkcs8 = zeroize::Zeroizing::new(PKCS8_PREFIX.to_vec());
    pkcs8.extend_from_slice(identity.seed().as_ref());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
    let key = provider.key_provider.load_private_key(key.clone_key())?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key)))
}

/// The server name that stands for a peer: its key in hex, cut into two labels. `None` for a PeerId
/// of another kind of key.
pub fn server_name(peer: &PeerId) -> Option<String> {
    let key = hex::encode(record::key_of(peer)?.0);
    let (left, right) = key.split_at(32);
    Some(format!("{left}.{right}.ghost"))
}

fn key_in_name(name: &ServerName<'_>) -> Option<PublicKey> {
    let ServerName::DnsName(name) = name else { return None };
    let mut labels = name.as_ref().split('.');
    let mut key = [0; 32];
    hex::decode_to_slice(labels.next()?, &mut key[..16]).ok()?;
    hex::decode_to_slice(labels.next()?, &mut key[16..]).ok()?;
    Some(PublicKey(key))
}

/// The ed25519 key inside a SubjectPublicKeyInfo.
pub(crate) fn key_in_spki(spki: &[u8]) -> Option<PublicKey> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(PublicKey)
}

/// Accepts any well-formed ed25519 key from a client, and exactly the expected one from a server.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn check_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(spki.as_ref()),
            signature,
            &self.algorithms,
        )
    }
}

fn refuse_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".into()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        spki: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let reached = key_in_spki(spki).ok_or(CertificateError::BadEncoding)?;
        if key_in_name(name) != Some(reached) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, spki, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        spki: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Bytes that are no curve point verify no signature, which is the next thing to be checked.
        key_in_spki(spki).ok_or(CertificateError::BadEncoding)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, spki, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The two configurations of an endpoint. Each call makes an empty ticket store and session cache of
/// its own.
///
/// # Errors
/// Only if the cryptography library refuses the key or the protocol version: a fault of the build.
pub fn configs(identity: &Identity) -> Result<(ServerConfig, ClientConfig), Error> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(Verifier { algorithms: provider.signature_verification_algorithms });
    let key = certified_key(identity, &provider)?;

    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.clone())
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(key.clone())));
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = rustls::server::ServerSessionMemoryCache::new(RESUMPTION_SESSIONS);
    // QUIC knows only "none" and "as much as flow control allows" (RFC 9001 §4.6.1).
    server.max_early_data_size = u32::MAX;

    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(key)));
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.enable_sni = false;
    client.enable_early_data = true;
    Ok((server, client))
}

/// Makes every dial a full handshake: no ticket is kept, nothing ties a connection to earlier ones but
/// the keys shown in it.
pub fn disable_resumption(client: &mut ClientConfig) {
    client.resumption = rustls::client::Resumption::disabled();
    client.enable_early_data = false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_name_carries_the_key() {
        let identity = Identity::from_seed(&[5; 32]);
        let name = server_name(&identity.peer_id()).unwrap();
        let parsed = ServerName::try_from(name.as_str()).unwrap();
        assert_eq!(key_in_name(&parsed), Some(identity.public()));
    }
}
