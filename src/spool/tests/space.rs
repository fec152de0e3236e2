//! The space of what was delivered: when it is given back.

use super::*;

const RECORDS: u64 = 3000;
/// What a segment with few records takes.
const LITTLE: u64 = 64 << 10;

/// A spool from which a backlog of three megabytes was delivered just now.
async fn drained(directory: &Path) -> Spool {
    let spool = Spool::open(directory, SpoolOptions { compression: Compression::NONE, ..options() }).expect("it opens");
    for first in (0..RECORDS).step_by(100) {
        spool.append(big_batch(first..first + 100)).await.expect("kept");
    }
    assert_eq!(lease_all(&spool, Stream::Events).len() as u64, RECORDS);
    spool.acknowledge(Stream::Events, &[0..RECORDS]).expect("acknowledged");
    assert!(spool.status().disk.journal > RECORDS * 1000, "a segment is deleted as a whole");
    spool
}

fn journal_bytes(directory: &Path) -> u64 {
    files(&directory.join("journal")).iter().map(|file| file.metadata().expect("metadata").len()).sum()
}

#[tokio::test]
async fn a_spool_that_is_closed_when_all_is_delivered_leaves_no_space_of_it() {
    let directory = tempfile::tempdir().expect("a directory");
    drained(directory.path()).await.close().await;
    assert!(journal_bytes(directory.path()) < LITTLE, "{}", journal_bytes(directory.path()));
    let spool = open(directory.path());
    let status = spool.status();
    assert_eq!((status.records(), status.streams[&Stream::Events].delivered), (0, RECORDS));
    spool.append(batch(Stream::Events, 0..1)).await.expect("kept");
    assert_eq!(lease_all(&spool, Stream::Events)[0].seq, RECORDS, "no sequence number is used twice");
}

#[tokio::test]
async fn a_spool_that_is_closed_with_a_backlog_keeps_its_segment() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = drained(directory.path()).await;
    spool.append(batch(Stream::Stats, 0..1)).await.expect("kept");
    spool.close().await;
    assert_eq!(files(&directory.path().join("journal")).len(), 1);
    assert_eq!(texts(&lease_all(&open(directory.path()), Stream::Stats)), expected(0..1));
}

/// Some record waits at any time, so the spool is never drained.
#[tokio::test]
async fn a_trickle_after_a_backlog_does_not_keep_the_space_of_the_backlog() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = drained(directory.path()).await;
    let mut next = RECORDS;
    let is_deleted = async {
        while files(&directory.path().join("journal"))[0].ends_with("000000000001.journal") {
            spool.append(batch(Stream::Events, next..next + 1)).await.expect("kept");
            if next > RECORDS {
                lease_all(&spool, Stream::Events);
                spool.acknowledge(Stream::Events, &[next - 1..next]).expect("acknowledged");
            }
            assert!(spool.status().records() > 0);
            next += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), is_deleted).await.expect("the backlog's segment is deleted");
    eventually("the journal is short", || spool.status().disk.journal < 2 * LITTLE).await;
}
