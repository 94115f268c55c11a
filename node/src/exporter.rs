//! Answers `GET /metrics` over HTTP/1.1 for Prometheus.
//!
//! At most [`CONNECTIONS_MAX`] callers at once, each with [`REQUEST_TIMEOUT`] to ask and one answer
//! per connection: 16 idle callers hold 16 descriptors for 10 s, and no more.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle, time};

use crate::metrics::Metrics;

/// Callers that are answered at once; further ones wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 16;
/// How long a caller may take for its request and for reading the answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics on {address}: {source}\n  set metrics.listen to a free address, or to \"\" to serve none"
)]
pub struct ExporterError {
    /// What was asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// A running endpoint; ends when dropped.
#[derive(Debug)]
pub struct Exporter {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Binds and serves until dropped. Call it inside a tokio runtime.
    pub async fn start(address: SocketAddr, metrics: Arc<Metrics>) -> Result<Self, ExporterError> {
        let failed = |source| ExporterError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, task: tokio::spawn(serve(listener, metrics)) })
    }

    /// Where it listens; tells the port that was taken for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: whoever asks, asks again.
                tracing::warn!(%error, "cannot take a connection for metrics");
                time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .keep_alive(false)
                .max_buf_size(16 * 1024)
                .serve_connection(
                    TokioIo::new(stream),
                    service_fn(|request| {
                        let answer = answer(&request, &metrics);
                        async move { Ok::<_, Infallible>(answer) }
                    }),
                );
            let _ = time::timeout(2 * REQUEST_TIMEOUT, connection).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let plain = |status, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        response
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let mut response = Response::new(Full::new(metrics.encode().into()));
            response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS.parse().expect("ASCII"));
            response
        }
        (_, "/metrics") => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            response.headers_mut().insert(ALLOW, "GET".parse().expect("ASCII"));
            response
        }
        _ => plain(StatusCode::NOT_FOUND, "the figures are at /metrics\n"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn start() -> Exporter {
        let metrics = Arc::new(Metrics::new());
        metrics.blocks_proposed.inc_by(7);
        Exporter::start("127.0.0.1:0".parse().unwrap(), metrics).await.unwrap()
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn prometheus_gets_the_figures() {
        let exporter = start().await;
        let text = ask(exporter.address(), "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("application/openmetrics-text"));
        assert!(text.contains("\nghostd_blocks_proposed_total 7\n"));
        assert!(text.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn other_requests_are_told_what_there_is() {
        let exporter = start().await;
        let text = ask(exporter.address(), "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 404") && text.contains("/metrics"), "{text}");
        let text = ask(exporter.address(), "POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 405"), "{text}");
    }

    #[tokio::test]
    async fn one_caller_too_many_waits_until_another_leaves() {
        let exporter = start().await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            idle.push(TcpStream::connect(exporter.address()).await.unwrap());
        }
        let mut last =
            tokio::spawn(async move { ask(exporter.address(), "GET /metrics HTTP/1.1\r\n\r\n").await });
        // Idle callers leave one by one only after this one was seen to wait.
        assert!(time::timeout(Duration::from_millis(200), &mut last).await.is_err(), "it was answered");
        idle.pop();
        time::timeout(REQUEST_TIMEOUT / 2, last).await.expect("answered as soon as there is room").unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let exporter = start().await;
        let error =
            Exporter::start(exporter.address(), Arc::new(Metrics::new())).await.unwrap_err().to_string();
        assert!(
            error.contains(&exporter.address().to_string()) && error.contains("metrics.listen"),
            "{error}"
        );
    }
}
