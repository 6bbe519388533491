//! The steps of a question, in the order in which it takes them.
//!
//! 1. [`start`]: with a call of this worker or of another one, in line for a free call, or not at all.
//! 2. [`in_line`]: how a question comes into a line, and how it leaves the line without a call.
//! 3. [`landing`]: MAS has answered, or another worker says that there is no answer. [`answer`]: what becomes of the answer
//!    in the shared cache.
//! 4. [`resumption`]: the answer did not come by the way that it was waited for.
//! 5. [`stand_in`]: there is none, and something else serves or nothing.
//! 6. [`handing_out`]: those who wait are told.
//!
//! [`tick`] is what is done four times a second, [`renewal`] while an answer serves, [`retry`] when a
//! connection has failed, and [`lag`] for a worker that is too busy for
//! any of this. [`counting`] is what the metrics say of it.

use core::time::Duration;

pub mod answer;
pub mod counting;
pub mod handing_out;
pub mod in_line;
pub mod lag;
pub mod landing;
pub mod renewal;
pub mod resumption;
pub mod retry;
pub mod stand_in;
pub mod start;
pub mod tick;

use crate::shared_data::last_read;

/// How often a worker looks at deadlines, leases and epochs.
pub const TICK: Duration = last_read::MAX_AGE;
