//! Connects to a ghostd, asks how it is, and follows its head for five blocks.
//!
//! ```sh
//! cargo run -p ghost-protocol --example follow -- /ip4/127.0.0.1/udp/4001/quic-v1/p2p/12D3KooW…
//! ```

use ghost_proto::Header;
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
};

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address =
        std::env::args().nth(1).ok_or("give the multiaddr of a node, with its /p2p part")?.parse()?;
    let client = Client::connect(ClientConfig::new(Identity::generate()), &address).await?;
    let status = client.status().await?;
    let head = status.head.unwrap_or_default();
    println!("{} (chain {}) is at height {}", status.chain_name, status.chain_id, head.height);

    let mut heads = client.heads().await?;
    for _ in 0..5 {
        let Some(event) = heads.next().await? else { break };
        let header = Header::parse(event.header)?;
        let finalized = event.finalized.unwrap_or_default().height;
        println!(
            "head {} {} with {} transactions, final up to {finalized}",
            header.height,
            header.id(),
            header.tx_count
        );
    }
    client.close().await;
    Ok(())
}
