//! The simulation: the real spool over a simulated machine, in one thread, with every fault that a story asks for.
//!
//! The bug that it is for: the first build inferred what may be deleted from the first sequence numbers of *other* segments. One
//! `kill -9` between the creation of a segment and its first write made the next start believe that the segments before it hold
//! nothing; an append and some seconds with the sink unavailable later, 40,000 acknowledged records were deleted. No random test met
//! it, because it shows only after a crash at one operation, a restart, an append and time without a sink. So crash points are
//! counted through, not drawn, and after each one all of that happens.
//!
//! | file | what it is |
//! |---|---|
//! | `medium` | what is on the medium, what is synced, what a kill or a power cut leaves |
//! | `disk`, `queue` | the spool's `Disk` and `QueueStore` over it: every operation numbered, and watched |
//! | `ledger` | what the spool owes, checked after each step by record |
//! | `story`, `steps` | what can be done, and how it is |
//! | `world` | the process and its machine: opens, crashes, continues to the end |
//! | `check` | compares what the spool says with the ledger |
//! | `enumerate` | short stories, with a crash at every operation and at every operation of the recovery |
//! | `found` | the shrunk stories of faults that were found, each with its name |
//! | `seeds` | long stories by seed; a failing one is shrunk and printed |
//!
//! What the spool has to survive: the end of the process or the machine at any operation; reads, writes, syncs, renames and
//! queues that fail, once or for good; a full disk; flipped bits and bad pages (which cost the blocks over them, nothing else);
//! segments that are out of sight for a while; a wall clock that jumps; any answer of a sink, or none. Not simulated: threads, sled
//! itself, and directories that a power cut takes.

mod check;
mod disk;
mod enumerate;
mod found;
mod ledger;
mod medium;
mod queue;
mod seeds;
mod steps;
mod story;
mod world;
