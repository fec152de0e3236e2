//! One snapshot of the state, for the command line and the admin side alike: they cannot disagree.
