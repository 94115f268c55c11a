//! gRPC by `tonic`.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use ghost_proto::{Address, Call};
use ghost_testnet::bench::{
    BenchError,
    calls::{Asker, World},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server},
};

use self::rival::{CallAnswer, CallRequest, contracts_client::ContractsClient, contracts_server};

mod rival {
    #![allow(missing_docs)]
    tonic::include_proto!("rival");
}

struct Contracts(Arc<World>);

#[tonic::async_trait]
impl contracts_server::Contracts for Contracts {
    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallAnswer>, Status> {
        let request = request.into_inner();
        let address = |bytes: &Bytes| {
            let bytes = bytes.as_ref().try_into();
            bytes.map(Address).map_err(|_| Status::invalid_argument("an address has 20 bytes"))
        };
        let call = Call {
            from: address(&request.from)?,
            to: Some(address(&request.to)?),
            input: request.input,
            gas_limit: request.gas_limit,
            ..Call::default()
        };
        let answer = self.0.answer(&call).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(CallAnswer {
            height: answer.height,
            block: Bytes::copy_from_slice(&answer.block.0),
            state: Bytes::copy_from_slice(&answer.state),
            outcome: answer.outcome.code().into(),
            gas_used: answer.gas_used,
            output: answer.output,
        }))
    }
}

/// Serves for as long as the runtime that it is called in.
pub async fn serve(world: Arc<World>) -> Result<SocketAddr, BenchError> {
    let failed = |error| BenchError::new("serving gRPC", error);
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    let service = contracts_server::ContractsServer::new(Contracts(world));
    // Ends with the runtime.
    drop(tokio::spawn(
        Server::builder()
            .tcp_nodelay(true)
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    ));
    Ok(at)
}

/// Asks over one HTTP/2 connection.
#[derive(Debug)]
pub struct GrpcAsker {
    client: ContractsClient<Channel>,
    call: CallRequest,
}

impl GrpcAsker {
    /// Connects.
    pub async fn connect(at: SocketAddr, call: &Call) -> Result<Self, BenchError> {
        const DOING: &str = "connecting over gRPC";
        let endpoint = Channel::from_shared(format!("http://{at}"));
        let endpoint = endpoint.map_err(|error| BenchError::new(DOING, error))?.tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(|error| BenchError::new(DOING, error))?;
        let call = CallRequest {
            from: Bytes::copy_from_slice(&call.from.0),
            to: call.to.map(|to| Bytes::copy_from_slice(&to.0)).unwrap_or_default(),
            value: Bytes::copy_from_slice(&call.value.to_be_bytes()),
            gas_limit: call.gas_limit,
            input: call.input.clone(),
        };
        Ok(Self { client: ContractsClient::new(channel), call })
    }
}

impl Asker for GrpcAsker {
    async fn ask(&self) -> Result<Bytes, BenchError> {
        // A clone shares the connection: that is how tonic is asked many things at once.
        let answer = self.client.clone().call(self.call.clone()).await;
        Ok(answer.map_err(|error| BenchError::new("calling over gRPC", error))?.into_inner().output)
    }
}
