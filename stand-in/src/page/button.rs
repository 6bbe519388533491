//! The buttons: what each does, and what it tells.

use std::{sync::Arc, time::Duration};

use super::{
    Member, Shared, herd,
    journal::{Tone, Who},
    kind::{self, Kind},
};
use crate::mas::Fault;

/// How slow a slow MAS is.
const SLOW: Duration = Duration::from_secs(2);
/// How long a button waits for MAS to tell the homeserver.
const PATIENCE: Duration = Duration::from_secs(5);
const MAS_IS_DOWN: &str = "MAS is down: bring it back first";
/// The user whom the buttons lock and unlock.
const LOCKED: &str = "alice";

/// Something to press.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Button {
    Send(Kind),
    Herd,
    Lock,
    Unlock,
    LogOut,
    LogIn,
    Kill,
    BringBack,
    MakeSlow,
    EndFaults,
}

impl Button {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "herd" => Self::Herd,
            "lock" => Self::Lock,
            "unlock" => Self::Unlock,
            "log-out" => Self::LogOut,
            "log-in" => Self::LogIn,
            "kill" => Self::Kill,
            "bring-back" => Self::BringBack,
            "make-slow" => Self::MakeSlow,
            "end-faults" => Self::EndFaults,
            _ => {
                let mut kinds = Kind::ALL.into_iter();
                let (_, kind) = kinds.find(|(of, _)| name.strip_prefix("send-") == Some(of))?;
                Self::Send(kind)
            }
        })
    }

    /// Does it, and tells what came of it, when the edge's figures have it too.
    ///
    /// # Errors
    ///
    /// Why nothing came of it.
    pub(super) async fn press(self, shared: &Arc<Shared>) -> Result<String, String> {
        let told = match self {
            Self::Send(kind) => return kind.send(shared).await,
            Self::Herd => herd::send(shared).await,
            _ => self.change_and_write(shared).await,
        };
        let _ = shared.edge.settled_stats().await;
        told
    }

    async fn change_and_write(self, shared: &Shared) -> Result<String, String> {
        let _changing = shared.changing.lock().await;
        let told = self.change(shared).await?;
        let tone = Tone::Plain;
        shared.stack.observer.write(Who::You, tone, told.clone());
        Ok(told)
    }

    async fn change(self, shared: &Shared) -> Result<String, String> {
        let stack = &shared.stack;
        let mas = &stack.mas;
        let needs_mas = matches!(self, Self::Lock | Self::Unlock | Self::LogIn);
        if needs_mas && !mas.is_up() {
            return Err(MAS_IS_DOWN.to_owned());
        }
        Ok(match self {
            Self::Send(_) | Self::Herd => return Err("this changes nothing".to_owned()),
            Self::Lock => {
                mas.lock_user(LOCKED);
                format!("locked {LOCKED}{}", until_told(shared).await)
            }
            Self::Unlock => {
                mas.unlock_user(LOCKED);
                format!("unlocked {LOCKED}{}", until_told(shared).await)
            }
            Self::LogOut => {
                let status = kind::log_out(shared).await?;
                if !status.is_success() {
                    return Err(format!("POST /logout of bob's old client got {status}"));
                }
                stack.observer.ended(Member::Bob, "the client logged out");
                format!("logged bob's old client out{}", until_told(shared).await)
            }
            Self::LogIn => {
                stack.observer.forget(Member::Bob);
                stack.cast.begin_again(Member::Bob);
                format!("logged bob's old client in{}", until_told(shared).await)
            }
            Self::Kill => {
                mas.take_down().await;
                "killed MAS: its port refuses connections".to_owned()
            }
            Self::BringBack => {
                let up = mas.bring_up().await;
                up.map_err(|error| format!("MAS cannot listen again: {error}"))?;
                "brought MAS back".to_owned()
            }
            Self::MakeSlow => {
                mas.fault(Fault::delay(SLOW));
                format!("made MAS slow: each answer takes {} s", SLOW.as_secs())
            }
            Self::EndFaults => {
                mas.clear_faults();
                "MAS answers at once again".to_owned()
            }
        })
    }
}

/// Waits until MAS has told the homeserver what there is to tell, and says so.
async fn until_told(shared: &Shared) -> &'static str {
    let told = shared.stack.mas.wait_until_provisioned();
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(()) => ", and MAS has told the homeserver through the edge",
        Err(_) => "; MAS has not reached the homeserver yet, and tries again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_request_has_a_button() {
        for (name, kind) in Kind::ALL {
            let button = Button::named(&format!("send-{name}"));
            assert_eq!(button, Some(Button::Send(kind)));
        }
        for nothing in ["", "send-", "alice", "herds"] {
            assert_eq!(Button::named(nothing), None, "{nothing}");
        }
    }
}
