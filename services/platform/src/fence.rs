//! fence (being written).
