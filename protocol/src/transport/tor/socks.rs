//! Onion services through the SOCKS5 port of a tor daemon (RFC 1928; names are resolved behind the proxy).

use std::{io, net::SocketAddr};

use tokio_socks::tcp::Socks5Stream;

use crate::transport::{Carrier, Connecting, Isolation, Onion, stream::BoxedStream};

/// Dials through a SOCKS5 port.
#[derive(Debug, Clone)]
pub struct SocksCarrier {
    proxy: SocketAddr,
    secret: [u8; 32],
}

impl SocksCarrier {
    /// Through the proxy at this address. `secret` is drawn once for each process: what other programs tell
    /// the same daemon then never leads to a shared circuit.
    pub fn new(proxy: SocketAddr, secret: [u8; 32]) -> Self {
        Self { proxy, secret }
    }

    /// Name and password under which a stream is asked for. A daemon never lets streams share a circuit that
    /// come with different ones (`IsolateSOCKSAuth`, on by default).
    fn credentials(&self, isolation: Isolation) -> (String, &'static str) {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        match isolation {
            Isolation::Peer(peer) => hasher.update(b"peer").update(&peer.to_bytes()),
            Isolation::Once(number) => hasher.update(b"once").update(&number.to_be_bytes()),
        };
        (hex::encode(&hasher.finalize().as_bytes()[..16]), "ghost")
    }
}

impl Carrier for SocksCarrier {
    fn connect(&self, onion: Onion, isolation: Isolation) -> Connecting<'_> {
        Box::pin(async move {
            let (name, password) = self.credentials(isolation);
            let target = (onion.host(), onion.port);
            let stream = Socks5Stream::connect_with_password(self.proxy, target, &name, password)
                .await
                .map_err(|error| io::Error::other(format!("the tor daemon at {}: {error}", self.proxy)))?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Takes one request as RFC 1928 and 1929 lay it out: name, password, host and port. Then echoes.
    async fn proxy(listener: TcpListener) -> (Vec<u8>, Vec<u8>, String, u16) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.unwrap();
        let mut methods = vec![0; head[1].into()];
        stream.read_exact(&mut methods).await.unwrap();
        assert!(methods.contains(&2));
        stream.write_all(&[5, 2]).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 1);
        let mut texts = [Vec::new(), Vec::new()];
        for text in &mut texts {
            *text = vec![0; stream.read_u8().await.unwrap().into()];
            stream.read_exact(text).await.unwrap();
        }
        stream.write_all(&[1, 0]).await.unwrap();
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[..4], [5, 1, 0, 3], "by name: nobody here looks it up");
        let mut host = vec![0; head[4].into()];
        stream.read_exact(&mut host).await.unwrap();
        let port = stream.read_u16().await.unwrap();
        stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
        let [name, password] = texts;
        (name, password, String::from_utf8(host).unwrap(), port)
    }

    #[tokio::test]
    async fn names_go_to_the_daemon_and_each_isolation_has_credentials_of_its_own() {
        let host = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd.onion";
        let onion = Onion::of_host(host, 4001).unwrap();
        let peer = |seed| crate::Identity::from_seed(&[seed; 32]).peer_id();
        let mut names = Vec::new();
        for isolation in
            [Isolation::Peer(peer(1)), Isolation::Peer(peer(2)), Isolation::Once(1), Isolation::Once(2)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let carrier = SocksCarrier::new(listener.local_addr().unwrap(), [7; 32]);
            let served = tokio::spawn(proxy(listener));
            let mut stream = carrier.connect(onion, isolation).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut said = [0; 5];
            stream.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"hello");
            let (name, _, asked, port) = served.await.unwrap();
            assert_eq!((asked.as_str(), port), (host, 4001));
            assert_eq!(name, carrier.credentials(isolation).0.into_bytes(), "the same each time");
            names.push(name);
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 4);
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let onion = Onion { name: [3; 35], port: 1 };
        let error =
            SocksCarrier::new(address, [7; 32]).connect(onion, Isolation::Once(1)).await.err().unwrap();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
