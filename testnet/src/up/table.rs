//! The live table.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    time::{Duration, Instant},
};

use ghost_node::cli::output::{Table, bytes_for_people};
use ghost_proto::message;
use ghost_protocol::client::Client;
use tokio::{task::JoinSet, time};

use crate::{
    report::node_peers,
    traffic::{Directory, Tracker},
};

/// How often a terminal is redrawn.
const REDRAW_EVERY: Duration = Duration::from_millis(500);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Statuses of all nodes, asked at once; `None` for one that does not answer in time.
pub async fn statuses(clients: &[Client], patience: Duration) -> Vec<Option<message::Status>> {
    let mut asked = JoinSet::new();
    for (index, client) in clients.iter().cloned().enumerate() {
        asked.spawn(async move { (index, time::timeout(patience, client.status()).await) });
    }
    let mut all = vec![None; clients.len()];
    while let Some(Ok((index, answer))) = asked.join_next().await {
        all[index] = answer.ok().and_then(Result::ok);
    }
    all
}

/// One node's last two statuses, to tell its rate from.
#[derive(Debug, Default)]
struct Row {
    status: Option<message::Status>,
    per_second: f64,
    at: Option<Instant>,
}

impl Row {
    fn update(&mut self, status: Option<message::Status>, now: Instant) {
        if let (Some(status), Some(before), Some(at)) = (&status, &self.status, self.at) {
            let seconds = now.duration_since(at).as_secs_f64().max(0.001);
            let rate = status.included_total.saturating_sub(before.included_total) as f64 / seconds;
            // Blocks come once a slot, redraws more often: smooth over some seconds.
            self.per_second += (rate - self.per_second) * (seconds / 4.0).min(1.0);
        }
        (self.status, self.at) = (status, Some(now));
    }
}

fn render(rows: &[Row], up: &[bool], prices: Option<&str>, tracker: &Tracker, elapsed: Duration) -> String {
    let mut table = Table::new(["NODE", "HEIGHT", "HEAD", "FINAL", "PEERS", "TX/S", "MEMPOOL", "MEMORY"]);
    for (index, row) in rows.iter().enumerate() {
        let Some(status) = &row.status else {
            table.row([
                index.to_string(),
                if up[index] { "no answer" } else { "down" }.into(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ]);
            continue;
        };
        let head = status.head.clone().unwrap_or_default();
        table.row([
            index.to_string(),
            head.height.to_string(),
            hex::encode(&head.id[..head.id.len().min(4)]),
            status.finalized.as_ref().map_or(0, |block| block.height).to_string(),
            node_peers(status).to_string(),
            format!("{:.0}", row.per_second),
            status.mempool.unwrap_or_default().count.to_string(),
            bytes_for_people(status.rss_bytes),
        ]);
    }
    let summary = tracker.summary();
    let mut out = table.to_string();
    if let Some(prices) = prices {
        let _ = writeln!(out, "{prices}");
    }
    let _ = writeln!(
        out,
        "{:>5.0} s  submitted {}  seen in blocks {}  rejected {}  p50 {}  p99 {}",
        elapsed.as_secs_f64(),
        summary.accepted + summary.rejected,
        summary.seen,
        summary.rejected,
        ms(summary.p50_ms),
        ms(summary.p99_ms),
    );
    out
}

fn ms(value: Option<f64>) -> String {
    value.map_or("–".into(), |value| format!("{value:.0} ms"))
}

/// Shows the network until dropped: a table that is redrawn on a terminal, else a line now and then.
pub async fn show(clients: &[Client], tracker: &Tracker, directory: &Directory) {
    let terminal = io::stdout().is_terminal();
    let started = Instant::now();
    let mut rows: Vec<Row> = clients.iter().map(|_| Row::default()).collect();
    let mut drawn = 0;
    loop {
        let up: Vec<bool> = directory.borrow().iter().map(|addresses| !addresses.is_empty()).collect();
        // Who is down is not waited for.
        let running: Vec<Client> =
            clients.iter().zip(&up).filter(|(_, up)| **up).map(|(client, _)| client.clone()).collect();
        let mut answers = statuses(&running, REDRAW_EVERY).await.into_iter();
        for (row, up) in rows.iter_mut().zip(&up) {
            let status = if *up { answers.next().flatten() } else { None };
            row.update(status, Instant::now());
        }
        let prices = match running.first() {
            Some(client) => time::timeout(REDRAW_EVERY, crate::prices::line(client)).await.ok().flatten(),
            None => None,
        };
        let text = render(&rows, &up, prices.as_deref(), tracker, started.elapsed());
        let mut stdout = io::stdout().lock();
        // Whoever closed our output gets no table; the summary's failure will tell.
        if terminal {
            if drawn > 0 {
                let _ = write!(stdout, "\x1b[{drawn}A\x1b[J");
            }
            let _ = write!(stdout, "{text}");
            drawn = text.lines().count();
        } else if let Some(last) = text.lines().last() {
            let heights: Vec<String> = rows
                .iter()
                .map(|row| {
                    row.status
                        .as_ref()
                        .and_then(|status| status.head.as_ref())
                        .map_or(0, |head| head.height)
                        .to_string()
                })
                .collect();
            let _ = writeln!(stdout, "{last}  heights {}", heights.join(" "));
        }
        let _ = stdout.flush();
        drop(stdout);
        time::sleep(if terminal { REDRAW_EVERY } else { LINE_EVERY }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(height: u64, included_total: u64) -> message::Status {
        let head = message::BlockRef { height, id: vec![0xab; 32].into(), slot: height };
        message::Status { head: Some(head), included_total, rss_bytes: 30 << 20, ..Default::default() }
    }

    #[test]
    fn the_table_has_a_line_for_every_node_and_one_for_all() {
        let rows = [Row { status: Some(status(12, 0)), ..Row::default() }, Row::default(), Row::default()];
        let text = render(&rows, &[true, true, false], None, &Tracker::new(3), Duration::from_secs(3));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(
            lines[1].contains("12") && lines[1].contains("abababab") && lines[1].contains("30.0 MiB"),
            "{text}"
        );
        assert!(lines[2].contains("no answer"));
        assert!(lines[3].contains("down"));
        assert!(lines[4].contains("submitted 0") && lines[4].contains("p50 –"));
    }

    #[test]
    fn the_rate_settles_on_what_is_included() {
        let mut row = Row::default();
        let start = Instant::now();
        for tick in 0..60u32 {
            // 50 a second, in blocks of one second.
            row.update(Some(status(1, u64::from(tick / 2) * 50)), start + REDRAW_EVERY * tick);
        }
        assert!((row.per_second - 50.0).abs() < 15.0, "{}", row.per_second);
    }
}
