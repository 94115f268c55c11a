//! `ghostd tx send --payloads FILE`: many transfers from one account, in order.
//!
//! The next batch is read and signed while the one before is on its way. Batches are not sent side by
//! side: a later nonce that overtakes an earlier one would only be parked.

use std::{
    fs::File,
    io::{BufRead, BufReader, IsTerminal, Read, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ghost_proto::{
    TxId, VerifiedTransaction,
    limits::{SUBMIT_TXS_MAX, TX_BATCH_BYTES_MAX, TX_BYTES_MAX},
    message,
};
use ghost_protocol::client::Client;
use serde_json::json;
use tokio::time;

use super::send::{SendArgs, Sender, payload_hex, wait_included};
use crate::cli::{
    Globals,
    connect::{Connected, ask, busy_pause},
    output::{Failure, Out, count_for_people},
};

/// Batches that are signed ahead: 2 × 256 KiB.
const BATCHES_AHEAD: usize = 2;

/// How long one transaction may be refused for reasons that pass, before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long to wait before what was refused for such a reason is sent again.
const PAUSE: Duration = Duration::from_millis(250);

/// Refusals that pass when blocks are made; the same bytes may be submitted again.
const PASSING: [&str; 4] = ["pool_full", "sender_full", "nonce_too_far", "parked_full"];

/// One line of the file, signed.
struct Line {
    number: usize,
    payload_bytes: usize,
    tx: VerifiedTransaction,
}

pub(super) async fn run(globals: &Globals, args: &SendArgs, out: &Out) -> Result<ExitCode, Failure> {
    let path = args.payloads.clone().ok_or_else(|| Failure::usage("--payloads FILE is needed"))?;
    let file = File::open(&path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    ask(globals, async |node| send_lines(node, args, path, file, out).await).await
}

async fn send_lines(
    node: &Connected,
    args: &SendArgs,
    path: PathBuf,
    file: File,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let mut sender = Sender::prepare(node, args).await?;
    let shown = path.display().to_string();
    let (to, value) = (args.to.unwrap_or_else(|| sender.key.address()), args.value);
    let (ahead, mut batches) = tokio::sync::mpsc::channel(BATCHES_AHEAD);
    let signing = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
        let mut batch = Batch::default();
        for_each_payload(BufReader::new(file), |number, payload| {
            let payload_bytes = payload.len();
            let tx = sender.transfer(to, value, payload).map_err(|failure| {
                Failure::new(format!("{}:{number}: {}", path.display(), failure.text()))
            })?;
            if let Some(full) = batch.push(Line { number, payload_bytes, tx }) {
                // Nobody takes it once the sending side has failed, and said why.
                let _ = ahead.blocking_send(full);
            }
            Ok(())
        })
        .map_err(|failure| Failure::new(format!("{}: {}", path.display(), failure.text())))?;
        let _ = ahead.blocking_send(batch.lines);
        Ok(())
    });
    let progress = std::io::stderr().is_terminal() && !out.is_json();
    let mut sent = 0usize;
    let mut payload_bytes = 0usize;
    let mut last = None;
    let started = Instant::now();
    while let Some(lines) = batches.recv().await {
        submit_all(&node.client, &lines).await?;
        for line in &lines {
            let id = line.tx.id();
            out.answer(
                &json!({ "line": line.number, "id": id.to_string(), "bytes": line.payload_bytes }),
                id,
            )?;
            sent += 1;
            payload_bytes += line.payload_bytes;
            last = Some(id);
        }
        if progress {
            let _ = write!(std::io::stderr(), "\r{sent} accepted, {payload_bytes} bytes of payload ");
        }
    }
    signing.await??;
    if progress {
        let _ = writeln!(std::io::stderr());
    }
    if let (true, Some(id)) = (args.wait, last) {
        // The nonces are in order, so the last one is included after all others.
        wait_included(&node.client, id, args.wait_timeout).await?;
    }
    if sent == 0 {
        return Err(Failure::usage(format!("{shown} holds no payload"))
            .hint("each line is one, in hex; empty lines and lines that start with # are skipped"));
    }
    out.remark(format!(
        "{} with {payload_bytes} bytes of payload {} in {:.1} s",
        count_for_people(sent as u64, "transaction"),
        if args.wait { "included" } else { "accepted" },
        started.elapsed().as_secs_f64()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Lines until a submission is full: [`SUBMIT_TXS_MAX`] or [`TX_BATCH_BYTES_MAX`].
#[derive(Default)]
struct Batch {
    lines: Vec<Line>,
    bytes: usize,
}

impl Batch {
    /// Adds a line; gives the lines before it if it does not fit with them.
    fn push(&mut self, line: Line) -> Option<Vec<Line>> {
        let bytes = line.tx.bytes().len();
        let full = (self.lines.len() == SUBMIT_TXS_MAX || self.bytes + bytes > TX_BATCH_BYTES_MAX)
            .then(|| std::mem::take(self).lines);
        self.bytes += bytes;
        self.lines.push(line);
        full
    }
}

/// Calls `take` with each payload and the number of its line, counted from 1.
fn for_each_payload(
    mut reader: impl BufRead,
    mut take: impl FnMut(usize, Bytes) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let line_max = 2 * TX_BYTES_MAX as u64 + 4;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.by_ref().take(line_max).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.len() as u64 == line_max {
            return Err(Failure::new(format!(
                "line {number} is longer than any transaction ({TX_BYTES_MAX} bytes)"
            )));
        }
        let text = line.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        let text =
            std::str::from_utf8(text).map_err(|_| Failure::new(format!("line {number} is not text")))?;
        let payload =
            payload_hex(text).map_err(|error| Failure::new(format!("line {number} is not hex: {error}")))?;
        take(number, payload)?;
    }
    Ok(())
}

/// Submits until all are accepted. What is refused for a reason that passes is sent again.
async fn submit_all(client: &Client, lines: &[Line]) -> Result<(), Failure> {
    let mut waiting: Vec<&Line> = lines.iter().collect();
    let mut patience = Instant::now() + PATIENCE;
    while !waiting.is_empty() {
        let bytes = waiting.iter().map(|line| line.tx.bytes().clone()).collect();
        let results = match client.submit(bytes).await {
            Ok(results) => results,
            Err(error) => match busy_pause(&error).filter(|_| Instant::now() < patience) {
                Some(pause) => {
                    time::sleep(pause).await;
                    continue;
                }
                None => return Err(error.into()),
            },
        };
        if results.len() != waiting.len() {
            return Err(Failure::new(format!(
                "the node answered {} of {} transactions",
                results.len(),
                waiting.len()
            ))
            .hint("ask another node"));
        }
        let before = waiting.len();
        let mut refused = Vec::new();
        for (line, result) in waiting.into_iter().zip(&results) {
            match verdict(result) {
                Verdict::Accepted => {}
                Verdict::Later if Instant::now() < patience => refused.push(line),
                // An answer that was lost may have been "accepted".
                Verdict::Used if is_known(client, line.tx.id()).await? => {}
                _ => {
                    return Err(Failure::new(format!(
                        "line {} was refused ({}): {}",
                        line.number, result.reason, result.message
                    ))
                    .hint(
                        "the lines before it were accepted; remove them from the file before you try again",
                    ));
                }
            }
        }
        waiting = refused;
        if !waiting.is_empty() {
            if waiting.len() < before {
                patience = Instant::now() + PATIENCE;
            }
            time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Later,
    Used,
    Refused,
}

fn verdict(result: &message::SubmitResult) -> Verdict {
    match result.reason.as_str() {
        _ if result.accepted => Verdict::Accepted,
        "nonce_used" => Verdict::Used,
        reason if PASSING.contains(&reason) => Verdict::Later,
        _ => Verdict::Refused,
    }
}

async fn is_known(client: &Client, id: TxId) -> Result<bool, Failure> {
    Ok(client.transaction(id).await?.is_some())
}

#[cfg(test)]
mod tests {
    use ghost_proto::{Address, KeyPair};

    use super::*;

    fn payloads(text: &str) -> Result<Vec<(usize, Vec<u8>)>, String> {
        let mut all = Vec::new();
        for_each_payload(text.as_bytes(), |number, payload| {
            all.push((number, payload.to_vec()));
            Ok(())
        })
        .map_err(|failure| failure.text().to_owned())?;
        Ok(all)
    }

    #[test]
    fn a_file_of_payloads_is_read_line_by_line() {
        let all = payloads("# two payloads\n00ff\n\n  0x01  ").unwrap();
        assert_eq!(all, [(2, vec![0, 255]), (4, vec![1])]);
        assert_eq!(payloads("00\nxy").unwrap_err(), "line 2 is not hex: Invalid character 'x' at position 0");
    }

    #[test]
    fn a_line_from_both_sides_of_its_bound() {
        let longest = "00".repeat(TX_BYTES_MAX);
        assert_eq!(payloads(&format!("{longest}\n")).unwrap()[0].1.len(), TX_BYTES_MAX);
        assert!(payloads(&format!("{longest}0000\n")).unwrap_err().contains("line 1 is longer"));
    }

    #[test]
    fn batches_are_cut_at_both_limits() {
        let mut sender = Sender { key: KeyPair::from_seed(&[1; 32]), chain_id: 1, gas_price: 1, nonce: 0 };
        let mut line = |number, size: usize| {
            let tx = sender.transfer(Address::ZERO, 0, vec![1; size].into()).unwrap();
            Line { number, payload_bytes: size, tx }
        };
        let mut batch = Batch::default();
        for number in 0..SUBMIT_TXS_MAX {
            assert!(batch.push(line(number, 0)).is_none());
        }
        assert_eq!(batch.push(line(0, 0)).unwrap().len(), SUBMIT_TXS_MAX);
        let mut batch = Batch::default();
        // Two of the longest payloads that fit together, and the one that does not.
        assert!(batch.push(line(0, 100_000)).is_none());
        assert!(batch.push(line(1, 100_000)).is_none());
        assert_eq!(batch.push(line(2, 100_000)).unwrap().len(), 2);
        assert_eq!(batch.lines.len(), 1);
        assert_eq!(batch.bytes, batch.lines[0].tx.bytes().len());
    }

    #[test]
    fn only_refusals_that_pass_are_tried_again() {
        let result = |accepted, reason: &str| message::SubmitResult {
            accepted,
            reason: reason.into(),
            ..Default::default()
        };
        assert_eq!(verdict(&result(true, "")), Verdict::Accepted);
        assert_eq!(verdict(&result(false, "sender_full")), Verdict::Later);
        assert_eq!(verdict(&result(false, "nonce_used")), Verdict::Used);
        assert_eq!(verdict(&result(false, "balance")), Verdict::Refused);
    }
}
