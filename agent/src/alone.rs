//! A trainer without a fleet: one child, started, heard and asked to stop by whoever calls.
//!
//! The child is the one agents start, with the same limits, so that a file that bites takes nobody else along.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use fleetune_shared::{ByteSize, TrainOrder, TrainerEvent};

use crate::order::{Order, OrderedWork};
use crate::runner::{Ending, LastWords, Launch, News, Process, TrainerPids, classify};

/// How long the last lines are waited for once the child is gone.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Has `program` (this binary) carry out `order` in a child process, telling `hear` what it says. Once `stop` is
/// ready the child writes a checkpoint and ends; dropping the future ends it at once.
///
/// # Errors
/// When no child can be started or waited for.
pub async fn train_alone(
    program: &Path,
    order: TrainOrder,
    stop: impl Future<Output = ()>,
    hear: &mut dyn FnMut(TrainerEvent),
) -> std::io::Result<Ending> {
    let order = Order {
        agent_pid: std::process::id(),
        memory_bytes_limit: order.memory_bytes_limit.unwrap_or(ByteSize(u64::MAX)),
        work: OrderedWork::Train(Box::new(order)),
    };
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&serde_json::to_vec(&order).map_err(std::io::Error::other)?)?;
    let folder = std::env::current_dir()?;
    let launch = Launch { program, order: file.path(), folder: &folder, gpu_uuid: None };
    let mut process = Process::start(&launch, &TrainerPids::default()).await?;
    let mut words = LastWords::default();
    let mut note = |news: News, words: &mut LastWords| match news {
        News::Event(event) => words.event(*event).into_iter().for_each(&mut *hear),
        News::Line(line) => words.line(&line),
    };
    let mut stop = Box::pin(stop);
    let mut asked = false;
    let status = loop {
        tokio::select! {
            next = process.next() => match next {
                Ok(news) => note(news, &mut words),
                Err(status) => break status?,
            },
            () = &mut stop, if !asked => {
                asked = true;
                process.ask_to_stop().await;
            }
        }
    };
    let rest = async {
        while let Some(news) = process.news().await {
            note(news, &mut words);
        }
    };
    let _ = tokio::time::timeout(LAST_LINES, rest).await;
    Ok(classify(status, words, || process.memory_ran_out()))
}
