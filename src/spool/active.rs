//! The segment that is written to, and the ways in which a write to it is refused.

use std::{io, path::PathBuf, sync::Arc};

use super::{core::Core, error::FullLimit, io::DiskFile};

/// The segment that is written to.
pub(super) struct Active {
    pub(super) segment: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    /// All before it is synced.
    pub(super) end: u64,
    pub(super) reserved: u64,
}

impl Active {
    pub(super) fn write(&mut self, bytes: &[u8], step: u64) -> Result<(), Refusal> {
        let end = self.end + bytes.len() as u64;
        if end > self.reserved {
            let reserve = step.max(end - self.reserved);
            match self.file.reserve(self.reserved, reserve) {
                Ok(()) => self.reserved += reserve,
                // Less may do.
                Err(_) => self.reserved = end,
            }
        }
        self.file.write_at(bytes, self.end).map_err(Refusal::Write)
    }

    pub(super) fn sync(&self, core: &Core, begun: bool) -> Result<(), Refusal> {
        self.file.sync().map_err(Refusal::Sync)?;
        if begun {
            core.disk.sync_folder(&core.journal_folder()).map_err(Refusal::Sync)?;
        }
        Ok(())
    }
}

/// Why a group was not made durable.
pub(super) enum Refusal {
    Full(FullLimit),
    NeverFits { bytes: u64, max: u64 },
    NoFile(io::Error),
    Write(io::Error),
    Sync(io::Error),
}

impl Refusal {
    pub(super) fn is_no_space(&self) -> bool {
        match self {
            Self::Full(_) => true,
            Self::NeverFits { .. } => false,
            Self::NoFile(error) | Self::Write(error) | Self::Sync(error) => {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
        }
    }
}
