//! Looking at queues without taking anything, and emptying them.

use super::*;
use crate::spool::{Contents, DropReason, PeekFrom};

fn peeked(peek: Peek) -> Vec<QueuedRecord> {
    peek.collect::<Result<_, _>>().expect("readable")
}

/// Events 0..300 in blocks of ten, over several segments, of which 0..40 and 100..105 are delivered.
async fn holed(directory: &Path) -> Spool {
    let spool = Spool::open(directory, small()).expect("opens");
    for tens in 0..30 {
        spool.append(batch(Stream::Events, tens * 10..(tens + 1) * 10)).await.expect("accepted");
        spool.append(fat(Stream::Stats)).await.expect("accepted");
    }
    spool.lease(Stream::Events, limit(120)).expect("readable");
    spool.acknowledge(Stream::Events, &[0..40, 100..105]).expect("noted");
    spool
}

fn small() -> SpoolOptions {
    SpoolOptions { segment_bytes: 256 << 10, compression: Compression::NONE, ..options() }
}

/// A batch that fills a good part of a small segment.
fn fat(stream: Stream) -> RecordBatch {
    let mut builder = RecordBatchBuilder::new(stream);
    builder.push(&[7; 40_000]);
    builder.build(now_millis())
}

fn open_events() -> Vec<String> {
    let mut texts = expected(40..100);
    texts.extend(expected(105..300));
    texts
}

#[tokio::test]
async fn peeking_shows_what_is_to_be_delivered_and_leases_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = holed(directory.path()).await;
    let peek = |from| peeked(spool.peek(Stream::Events, from).expect("a reader"));
    assert_eq!(texts(&peek(PeekFrom::Oldest)), open_events());
    let mut backwards = open_events();
    backwards.reverse();
    assert_eq!(texts(&peek(PeekFrom::Newest)), backwards);
    assert_eq!(texts(&peek(PeekFrom::Seq(102))), expected(105..300));
    assert_eq!(texts(&peek(PeekFrom::Seq(250)))[..], expected(250..300)[..]);
    let mut before: Vec<String> = expected(40..100);
    before.reverse();
    assert_eq!(texts(&peek(PeekFrom::SeqBackwards(104))), before);
    assert_eq!(peek(PeekFrom::SeqBackwards(39)), []);
    assert_eq!(peek(PeekFrom::Seq(300)), []);
    assert_eq!(
        texts(&lease_all(&spool, Stream::Events)),
        expected(120..300),
        "leases continue as if nobody had looked"
    );
    spool.close().await;
}

#[tokio::test]
async fn a_stopped_spool_is_peeked_at_like_an_open_one() {
    let directory = tempfile::tempdir().expect("a directory");
    holed(directory.path()).await.close().await;
    let stopped = Contents::of_stopped(directory.path(), small()).expect("readable");
    assert!(stopped.status().segments > 3);
    let peek = |from| peeked(stopped.peek(Stream::Events, from).expect("a reader"));
    assert_eq!(texts(&peek(PeekFrom::Oldest)), open_events());
    let mut backwards = open_events();
    backwards.reverse();
    assert_eq!(texts(&peek(PeekFrom::Newest)), backwards);
    assert_eq!(texts(&peek(PeekFrom::Seq(102))), expected(105..300));
}

#[tokio::test]
async fn what_is_acknowledged_while_one_peeks_is_left_out_and_nothing_is_lost() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = holed(directory.path()).await;
    let mut peek = spool.peek(Stream::Events, PeekFrom::Oldest).expect("a reader");
    let first = peek.next().expect("a record").expect("readable");
    assert_eq!(texts(&[first]), expected(40..41));
    lease_all(&spool, Stream::Events);
    lease_all(&spool, Stream::Stats);
    spool.acknowledge(Stream::Events, &[40..290]).expect("noted");
    spool.acknowledge(Stream::Stats, &[0..30]).expect("noted");
    eventually("segments go", || spool.status().segments < 3).await;
    let rest = texts(&peeked(peek));
    assert_eq!(rest[rest.len() - 10..], expected(290..300)[..]);
    assert!(rest.len() <= 19, "of the acknowledged ones only those of the open block are seen: {}", rest.len());
    spool.close().await;
}

#[tokio::test]
async fn a_purged_queue_is_empty_counted_and_its_space_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = holed(directory.path()).await;
    let purged = spool.purge(&[Stream::Events]).await.expect("durable");
    assert_eq!((purged[0].stream, purged[0].records), (Stream::Events, 255));
    assert!(purged[0].bytes > 0 && purged[0].blocks >= 25, "{purged:?}");
    let events = &spool.status().streams[&Stream::Events];
    assert_eq!((events.records, events.blocks, events.bytes, events.in_flight), (0, 0, 0, 0));
    assert_eq!(events.dropped[&DropReason::Purged], 255);
    spool.acknowledge(Stream::Events, &[110..120]).expect("a late answer is harmless");
    assert_eq!(spool.status().streams[&Stream::Events].delivered, 45);
    assert!(spool.lease(Stream::Events, ALL).expect("readable").is_none());
    spool.append(batch(Stream::Events, 7..9)).await.expect("accepted");
    assert_eq!(spool.purge(&[Stream::Stats, Stream::NodeRooms]).await.expect("durable")[0].records, 30);
    assert_eq!(texts(&lease_all(&spool, Stream::Events)), expected(7..9));
    spool.acknowledge(Stream::Events, &[300..302]).expect("noted");
    eventually("one segment is left", || spool.status().segments == 1).await;
    spool.close().await;
    let again = inspect(directory.path(), small()).expect("readable");
    assert_eq!(again.records(), 0);
    assert_eq!(again.streams[&Stream::Events].dropped[&DropReason::Purged], 255, "also after a restart");
}

#[tokio::test]
async fn purging_an_empty_queue_removes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    let purged = spool.purge(&Stream::ALL).await.expect("nothing to do");
    assert!(purged.iter().all(|purged| purged.records == 0));
    spool.close().await;
}

/// What a crash or a bad sector leaves at the journal's end.
#[derive(Debug, Clone, Copy)]
enum Spoiled {
    /// The next segment was made, and nothing written to it.
    EmptyNewest,
    /// Its first group was cut off.
    TornFirstGroup,
    /// A bit of the newest front is flipped.
    NewestFront,
}

const SPOILED: [Spoiled; 3] = [Spoiled::EmptyNewest, Spoiled::TornFirstGroup, Spoiled::NewestFront];

fn spoil(directory: &Path, how: Spoiled) {
    let segments = files(&directory.join("journal"));
    let newest = segments.last().expect("a segment");
    let next = directory.join(format!("journal/{:012}.journal", segments.len() + 1));
    let mut bytes = fs::read(newest).expect("a segment");
    match how {
        Spoiled::EmptyNewest => fs::write(next, "").expect("written"),
        Spoiled::TornFirstGroup => fs::write(next, &bytes[..60]).expect("written"),
        Spoiled::NewestFront => {
            bytes[50] ^= 4;
            fs::write(newest, bytes).expect("written");
        }
    }
}

#[tokio::test]
async fn whatever_the_newest_segment_is_a_stopped_spool_shows_what_is_to_be_delivered() {
    let original = tempfile::tempdir().expect("a directory");
    holed(original.path()).await.close().await;
    for how in SPOILED {
        let directory = tempfile::tempdir().expect("a directory");
        copy(original.path(), directory.path());
        spoil(directory.path(), how);
        let before = basics::contents(directory.path());
        let stopped = Contents::of_stopped(directory.path(), small()).expect("readable");
        assert_eq!(stopped.status().streams[&Stream::Events].records, 255, "{how:?}");
        assert_eq!(stopped.status().streams[&Stream::Stats].records, 30, "{how:?}");
        let shown = peeked(stopped.peek(Stream::Events, PeekFrom::Oldest).expect("a reader"));
        assert_eq!(texts(&shown), open_events(), "{how:?}");
        let report = verify(directory.path(), small()).expect("readable");
        assert!(report.lost.is_empty(), "{how:?}: {report:?}");
        assert_eq!(report.problems, u64::from(matches!(how, Spoiled::NewestFront)), "{how:?}: {:?}", report.findings);
        assert_eq!(basics::contents(directory.path()), before, "{how:?}: looking changes nothing");
    }
}

#[tokio::test]
async fn without_its_queue_a_stopped_spool_shows_too_much_and_never_too_little() {
    let original = tempfile::tempdir().expect("a directory");
    holed(original.path()).await.close().await;
    fs::remove_dir_all(original.path().join("queue")).expect("removed");
    for how in [None].into_iter().chain(SPOILED.map(Some)) {
        let directory = tempfile::tempdir().expect("a directory");
        copy(original.path(), directory.path());
        how.into_iter().for_each(|how| spoil(directory.path(), how));
        let before = basics::contents(directory.path());
        let stopped = Contents::of_stopped(directory.path(), small()).expect("readable");
        let shown = texts(&peeked(stopped.peek(Stream::Events, PeekFrom::Oldest).expect("a reader")));
        assert_eq!(shown.len() as u64, stopped.status().streams[&Stream::Events].records, "{how:?}");
        assert!(
            shown.len() <= 300 && open_events().iter().all(|event| shown.contains(event)),
            "{how:?}: {}",
            shown.len()
        );
        assert_eq!(stopped.status().streams[&Stream::Stats].records, 30, "{how:?}");
        let report = verify(directory.path(), small()).expect("readable");
        assert!(report.lost.is_empty() && report.records == 330, "{how:?}: {report:?}");
        assert_eq!(basics::contents(directory.path()), before, "{how:?}: looking changes nothing");
        drop(stopped);
        let spool = Spool::open(directory.path(), small()).expect("opens");
        assert_eq!(texts(&lease_all(&spool, Stream::Events)), shown, "{how:?}: the next start delivers what was shown");
        spool.close().await;
    }
}
