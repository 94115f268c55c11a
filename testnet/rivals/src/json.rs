//! JSON-RPC by `jsonrpsee`, as Ethereum nodes serve `eth_call`: over HTTP and over WebSocket.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use ghost_proto::{Address, Call};
use ghost_testnet::bench::{
    BenchError,
    calls::{Asker, World},
};
use jsonrpsee::{
    core::client::ClientT,
    http_client::{HttpClient, HttpClientBuilder},
    rpc_params,
    server::{RpcModule, ServerBuilder, ServerHandle},
    types::{ErrorObject, ErrorObjectOwned},
    ws_client::{WsClient, WsClientBuilder},
};
use serde::{Deserialize, Serialize};

/// The first parameter of `eth_call`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct EthCall {
    from: String,
    to: String,
    data: String,
}

fn hexed(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn bytes_of(text: &str) -> Result<Vec<u8>, ErrorObjectOwned> {
    hex::decode(text.trim_start_matches("0x")).map_err(invalid)
}

fn invalid(error: impl std::fmt::Display) -> ErrorObjectOwned {
    ErrorObject::owned(-32602, error.to_string(), None::<()>)
}

fn address(text: &str) -> Result<Address, ErrorObjectOwned> {
    Ok(Address(bytes_of(text)?.try_into().map_err(|_| invalid("an address has 20 bytes"))?))
}

/// Serves both on one port, until the handle is dropped.
pub async fn serve(world: Arc<World>) -> Result<(SocketAddr, ServerHandle), BenchError> {
    const DOING: &str = "serving JSON-RPC";
    let failed = |error: &dyn std::fmt::Display| BenchError::new(DOING, error);
    let server =
        ServerBuilder::default().build("127.0.0.1:0").await.map_err(|error| failed(&error))?;
    let at = server.local_addr().map_err(|error| failed(&error))?;
    let mut module = RpcModule::new(world);
    module
        .register_method("eth_call", |params, world, _| {
            let (call, _): (EthCall, String) = params.parse()?;
            let call = Call {
                from: address(&call.from)?,
                to: Some(address(&call.to)?),
                input: bytes_of(&call.data)?.into(),
                ..Call::default()
            };
            world.answer(&call).map(|answer| hexed(&answer.output)).map_err(invalid)
        })
        .map_err(|error| failed(&error))?;
    Ok((at, server.start(module)))
}

/// Asks over one client.
#[derive(Debug)]
pub struct JsonAsker<C> {
    client: C,
    call: EthCall,
}

impl<C> JsonAsker<C> {
    fn new(client: C, call: &Call) -> Self {
        let to = call.to.unwrap_or_default();
        let call = EthCall { from: hexed(&call.from.0), to: hexed(&to.0), data: hexed(&call.input) };
        Self { client, call }
    }
}

impl<C: ClientT + Send + Sync + 'static> Asker for JsonAsker<C> {
    async fn ask(&self) -> Result<Bytes, BenchError> {
        const DOING: &str = "calling over JSON-RPC";
        let output: String = self
            .client
            .request("eth_call", rpc_params![&self.call, "latest"])
            .await
            .map_err(|error| BenchError::new(DOING, error))?;
        let output = hex::decode(output.trim_start_matches("0x"));
        Ok(output.map_err(|error| BenchError::new(DOING, error))?.into())
    }
}

/// A client over HTTP/1.1 that keeps its connections.
pub fn http(at: SocketAddr, call: &Call) -> Result<JsonAsker<HttpClient>, BenchError> {
    let client = HttpClientBuilder::default().build(format!("http://{at}"));
    Ok(JsonAsker::new(client.map_err(|error| BenchError::new("connecting over HTTP", error))?, call))
}

/// A client over one WebSocket.
pub async fn websocket(at: SocketAddr, call: &Call) -> Result<JsonAsker<WsClient>, BenchError> {
    let client = WsClientBuilder::default().build(format!("ws://{at}")).await;
    Ok(JsonAsker::new(client.map_err(|error| BenchError::new("connecting over WebSocket", error))?, call))
}
