//! Opens, spawns and stops everything: who waits for whom.
