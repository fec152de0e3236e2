//! Opens a spool, in this order: version, directories, lock, queues, recovery of the journals. Its threads start last
//! ([`threads`](super::threads)).
//!
//! Nothing is created or changed before the version is known, and only directories are before the lock is held.
//! [`assemble`] also assembles a spool that is inspected from outside, which takes no lock.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, UNIX_EPOCH},
};

use parking_lot::Mutex;

use super::{
    dead_letters::{DeadError, DeadLetters},
    delivery::QueueError,
    disk::{DirectoryLock, Disk, RealDisk, check_writable, lock_path},
    error::OpenError,
    journal::block::Kind,
    losses::Losses,
    maintenance::Maintenance,
    options::{MIN_MAX_BYTES, SpoolOptions},
    quarantine::Quarantine,
    queue::{QueueStore, buffered::BufferedQueues, sled::SledQueues},
    quota::{dead_max_bytes, segment_bytes},
    reports::Reports,
    shared::{Meters, Shared, Usage},
    store::{
        Place, Store, StoreOptions, queue_directory, reader::Reader, replacing::QUEUE_SPACE, settling::Findings, survey,
    },
};
use crate::{
    files,
    record::{Stream, trusts_recorded},
};

/// An entry's records were received within this time, and within a 64th of `max_age`: they expire together.
const MAX_ENTRY_SPAN_MILLIS: u32 = 60_000;

/// Opens or creates the spool in `home`, except its threads.
pub(super) fn open(home: &Path, options: SpoolOptions) -> Result<(Shared, Maintenance, DirectoryLock), OpenError> {
    if options.max_bytes < MIN_MAX_BYTES {
        return Err(OpenError::TooSmall { name: options.name, max_bytes: options.max_bytes, least: MIN_MAX_BYTES });
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    // Before anything is created or changed.
    refuse_other_versions(disk.as_ref(), home)?;
    match files::make_private(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        private => private.map_err(OpenError::io(home))?,
    }
    let dead = home.join("dead");
    let dead_is_gone = disk.identity(&dead.join("journal")).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    for part in [home.join("journal"), dead.join("journal")] {
        disk.make_directory(&part).and_then(|()| check_writable(&part)).map_err(OpenError::io(part))?;
    }
    for part in [home, &dead] {
        check_writable(part).map_err(OpenError::io(part))?;
    }
    sync_ancestors(disk.as_ref(), &dead);
    let lock = DirectoryLock::take(home).map_err(OpenError::io(lock_path(home)))?;
    let Some(lock) = lock else { return Err(OpenError::InUse { path: home.to_owned() }) };
    // A start syncs it in any case. If that fails, no queue is opened: one whose files cannot be synced is never
    // closed.
    for journal in [home.join("journal"), dead.join("journal")] {
        disk.sync_directory(&journal).map_err(OpenError::io(journal))?;
    }
    let reports = Arc::new(Reports::new(options.name.clone()));
    let quarantine = Arc::new(Quarantine::new(Arc::clone(&disk), home.to_owned(), Arc::clone(&reports), false));
    let queues = Arc::new(BufferedQueues(SledQueues));
    let place = Place { home: home.to_owned(), disk, queues, reports, quarantine, read_only: false };
    let (shared, maintenance) = open_at(place, options)?;
    if let Some(gone) = shared.dead_letters_gone_error().filter(|_| dead_is_gone) {
        shared.reports.error(gone);
    }
    Ok((shared, maintenance, lock))
}

/// Opens the spool at a place, except its threads.
pub(super) fn open_at(place: Place, options: SpoolOptions) -> Result<(Shared, Maintenance), OpenError> {
    let queue = open_queue(&place);
    let dead_queue = open_queue(&Place { home: place.home.join("dead"), ..place.clone() });
    let (shared, found) = assemble(place, options, queue, dead_queue)?;
    check_key(&shared)?;
    report_entered(&shared, &found.0);
    let clock = shared.store.clock();
    let recorded = [found.0.written_at, clock.as_ref().map(|clock| clock.written_at)];
    if let Some(wrong) = recorded.into_iter().flatten().filter(|&at| !trusts_recorded(at)).max() {
        let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(wrong.unsigned_abs()));
        shared.reports.warn(&format!(
            "{}: an earlier run recorded the time {at}, which contradicts this machine's clock: it is ignored",
            shared.home.display()
        ));
    }
    let maintenance = Maintenance::new(&shared, clock);
    Ok((shared, maintenance))
}

/// Refuses a spool that another build wrote. Version 1 kept its dead letters in `dead/` itself.
pub(super) fn refuse_other_versions(disk: &dyn Disk, home: &Path) -> Result<(), OpenError> {
    let dead = home.join("dead");
    let journals = [home.join("journal"), dead.join("journal"), dead];
    journals.iter().try_for_each(|journal| survey::check_version(disk, journal))
}

/// Makes the spool's directories durable: a file is lost with the entry of any directory above it. That includes the
/// data directory and its own entry. Directories that others created may not be readable for this user; their creators
/// have to sync them.
fn sync_ancestors(disk: &dyn Disk, directory: &Path) {
    for ancestor in directory.ancestors().take(4) {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        if let Err(error) = disk.sync_directory(ancestor) {
            tracing::warn!(directory = %ancestor.display(), %error, "could not sync a directory: a power cut may lose it");
        }
    }
}

/// Opens a queue. One that cannot be opened is moved to the quarantine, and a new one is created. Returns `None` if
/// there is no space for one.
fn open_queue(place: &Place) -> Option<Arc<dyn QueueStore>> {
    let directory = queue_directory(&place.home);
    let free = place.disk.free_bytes(&place.home).unwrap_or(u64::MAX);
    if free < QUEUE_SPACE {
        place.reports.warn(&format!("{}: {free} bytes are free: the queue is kept in memory", directory.display()));
        return None;
    }
    if let Some(spent) = place.queues.spent() {
        place.reports.error(format!("{}: {spent}; the queue is kept in memory", directory.display()));
        return None;
    }
    let error = match place.queues.open(&directory) {
        Ok(queue) => return Some(queue),
        Err(error) => error,
    };
    place.reports.warn(&format!("{}: {error}: it is rebuilt from the journal", directory.display()));
    if let Err(error) = quarantine_queue(place, &directory) {
        place.reports.error(format!("{}: {error}: the queue is kept in memory", directory.display()));
        return None;
    }
    match place.queues.open(&directory) {
        Ok(queue) => Some(queue),
        Err(error) => {
            place.reports.error(format!("{}: {error}: the queue is kept in memory", directory.display()));
            None
        }
    }
}

/// A failed queue is kept for inspection, only the last one.
fn quarantine_queue(place: &Place, directory: &Path) -> io::Result<()> {
    let quarantine = place.home.join("quarantine");
    place.disk.make_directory(&quarantine)?;
    place.disk.remove_directory(&quarantine.join("queue"))?;
    match place.disk.rename(directory, &quarantine.join("queue")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

/// What recovery found in the journal and in the dead letters' journal.
pub(super) type Found = (Findings, Findings);

/// Assembles a spool over queues that were opened for it.
pub(super) fn assemble(
    place: Place,
    options: SpoolOptions,
    queue: Option<Arc<dyn QueueStore>>,
    dead_queue: Option<Arc<dyn QueueStore>>,
) -> Result<(Shared, Found), OpenError> {
    let age_span = options.max_age.map_or(u32::MAX, |age| u32::try_from(age.as_millis() / 64).unwrap_or(u32::MAX));
    let store_options = StoreOptions {
        kind: Kind::Records,
        segment_bytes: segment_bytes(&options),
        max_entry_span: MAX_ENTRY_SPAN_MILLIS.min(age_span),
        compression: options.compression,
        keys: options.encryption.clone(),
    };
    let dead_place = Place { home: place.home.join("dead"), ..place.clone() };
    let (store, findings) = Store::open(place.clone(), store_options, queue)?;
    let (dead, dead_findings) = DeadLetters::open(dead_place, &options, dead_max_bytes(&options), dead_queue)?;
    let losses = {
        let mut state = store.state.lock();
        let totals = state.streams.each_mut().map(|stream| &mut stream.totals);
        Losses::open(&place.disk, &place.home, &place.reports, place.read_only, totals)
    };
    let reader =
        |stream| Reader::new(&store, stream).map(Reader::retrying).map(Mutex::new).map_err(OpenError::io(&place.home));
    let readers = [reader(Stream::Events)?, reader(Stream::Stats)?, reader(Stream::NodeRooms)?];
    let shared = Shared {
        home: place.home,
        options,
        disk: place.disk,
        store,
        dead,
        readers,
        inbox: Mutex::default(),
        mail: parking_lot::Condvar::new(),
        maintenance: super::shared::Wakeup::default(),
        ready: Default::default(),
        space: tokio::sync::Notify::new(),
        usage: Usage::default(),
        reports: place.reports,
        quarantine: place.quarantine,
        losses,
        meters: Meters::default(),
        failing: AtomicBool::new(false),
    };
    shared.measure();
    Ok((shared, (findings, dead_findings)))
}

/// Reports records that a start found in the journal and not in the queue.
fn report_entered(shared: &Shared, findings: &Findings) {
    let Findings { entered, walked, .. } = findings;
    if *entered > 0 {
        let segments = walked.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        shared.reports.info(&format!(
            "spool {}: records of the journal that were not in the queue yet, as after a kill, are entered: {entered}, of \
             segments {segments}",
            shared.home.display()
        ));
    }
}

/// Reports a backlog that cannot be decrypted at the start; the backlog stays as it is.
pub(super) fn check_key(shared: &Shared) -> Result<(), OpenError> {
    if let Err(DeadError::NoKey { path, key }) = shared.dead.check_key() {
        return Err(OpenError::WrongKey { path, key });
    }
    for stream in Stream::ALL {
        let Some((key, entry)) = shared.store.entry_from(stream, 0) else { continue };
        if let Err(QueueError::NoKey { path, key }) =
            shared.readers[stream as usize].lock().seek(&shared.store, key, &entry, key)
        {
            return Err(OpenError::WrongKey { path: path.into(), key });
        }
    }
    Ok(())
}
