//! Opens a store: surveys its directory, runs recovery, and creates the writer that continues after it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use parking_lot::Mutex;

use super::{
    Place, Store, StoreOptions,
    recovery::{Recovered, Recovery, Stop},
    settling::Findings,
    survey::Survey,
};
use crate::{
    record::instant,
    spool::{
        error::OpenError,
        failpoint,
        journal::{codec::Packer, writer::Writer},
        queue::{QueueStore, memory::MemoryQueue},
    },
};

impl Store {
    /// Opens the store at a place over a queue that was opened there, or without one over a queue in memory. Blocking.
    ///
    /// # Errors
    /// When the journal is of another version, or cannot be listed or read.
    pub(crate) fn open(
        place: Place,
        options: StoreOptions,
        queue: Option<Arc<dyn QueueStore>>,
    ) -> Result<(Self, Findings), OpenError> {
        let journal = place.home.join("journal");
        let survey = Survey::of(place.disk.as_ref(), &journal)?;
        failpoint::reach("replay");
        let had_queue = queue.is_some();
        let mut leaked = 0;
        let mut queue = queue.unwrap_or_else(|| Arc::new(MemoryQueue::default()));
        let recovered = match Recovery::run(&place, &options, &survey, queue.as_ref()) {
            Err(Stop::Open(error)) => return Err(error),
            Err(Stop::Queue(error)) => {
                place.reports.warn(&format!("spool {}: {error}; it is rebuilt from the journal", place.home.display()));
                // Dropping the handle of a damaged database may hang.
                let failed: Arc<dyn QueueStore> = std::mem::replace(&mut queue, Arc::new(MemoryQueue::default()));
                failed.leak();
                leaked = 1;
                match Recovery::run(&place, &options, &survey, queue.as_ref()) {
                    Err(Stop::Open(error)) => return Err(error),
                    Err(Stop::Queue(error)) => return Err(OpenError::io(&place.home)(io::Error::other(error))),
                    Ok(recovered) => recovered,
                }
            }
            Ok(recovered) => recovered,
        };
        failpoint::reach("replayed");
        let Recovered { state, position, findings } = recovered;
        let packer = Packer::new(options.compression, options.keys.as_ref()).map_err(OpenError::io(&place.home))?;
        let writer = Writer::new(
            Arc::clone(&place.disk),
            &place.home,
            journal,
            options.kind,
            options.segment_bytes,
            packer,
            position,
        );
        let lost = !had_queue || !queue.is_durable();
        let store = Self {
            home: place.home,
            disk: place.disk,
            queues: place.queues,
            options,
            state: Mutex::new(state),
            reports: place.reports,
            quarantine: place.quarantine,
            writer,
            queue: Mutex::new(queue),
            queue_is_lost: AtomicBool::new(lost),
            leaked_queues: AtomicU64::new(leaked),
            closing_queues: Arc::default(),
            restored: Mutex::new(instant()),
            changed: AtomicBool::new(true),
            flushing: Mutex::default(),
            read_only: place.read_only,
        };
        Ok((store, findings))
    }
}
