//! Writes the history: one clock for everybody, lines in the order of their times.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::time::Instant;

use crate::history::{Event, What};

/// Shared by all that act. A thread of its own writes, so that nobody who is measured waits for a disk.
#[derive(Debug)]
pub(crate) struct Recorder {
    begun: Instant,
    /// Stamped and queued under one lock: that is what makes the order of the lines that of their times.
    queue: Mutex<Option<Sender<Event>>>,
    writing: Mutex<Option<JoinHandle<std::io::Result<()>>>>,
    path: PathBuf,
}

impl Recorder {
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut out = BufWriter::new(File::create(path).with_context(|| format!("making {}", path.display()))?);
        let (queue, events) = mpsc::channel::<Event>();
        let writing = std::thread::spawn(move || {
            for event in events {
                serde_json::to_writer(&mut out, &event)?;
                out.write_all(b"\n")?;
            }
            out.flush()
        });
        Ok(Self {
            begun: Instant::now(),
            queue: Mutex::new(Some(queue)),
            writing: Mutex::new(Some(writing)),
            path: path.to_owned(),
        })
    }

    pub(crate) fn record(&self, what: What) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref() {
            let at_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            // Fails only when the writer has failed, which `finish` tells.
            let _ = queue.send(Event { at_us, what });
        }
    }

    /// Ends the file and reads it back. What is recorded later is dropped.
    ///
    /// # Errors
    /// It could not be written, or does not read as it was written.
    pub(crate) fn finish(&self) -> Result<Vec<Event>> {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writing) = writing {
            writing.join().map_err(|_| anyhow::anyhow!("the writer of the history panicked"))??;
        }
        read(&self.path)
    }
}

/// Reads a history.
///
/// # Errors
/// No such file, or a line that is none of a history; the error has its number.
pub(crate) fn read(path: &Path) -> Result<Vec<Event>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut events = Vec::new();
    for (n, line) in BufReader::new(file).lines().enumerate() {
        let event = serde_json::from_str(&line?).with_context(|| format!("{} line {}", path.display(), n + 1))?;
        events.push(event);
    }
    Ok(events)
}
