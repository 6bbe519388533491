//! What the introspection role still watches for in an exchange.

use alloc::boxed::Box;

use super::{callers::CallerKey, form::QuestionForm};
use crate::{
    clock::Instant,
    role::{
        body::Share,
        exchange::{self, Wants},
    },
};

/// An exchange of the introspection role.
pub type Exchange = exchange::Exchange<Watch>;

/// What this role still watches for in an exchange.
#[derive(Debug, Default)]
pub enum Watch {
    /// Nothing.
    #[default]
    Nothing,
    /// An authenticated caller's request is held, and its form is awaited. Envoy has as many bytes of it in memory as are shared out,
    /// or fewer, and this is how many.
    HeldForBody(Share, usize),
    /// The request was held until this moment, and no piece of its form came.
    Released(Instant),
    /// The request of a caller that is not authenticated is forwarded; its form is read as it passes, to see whether
    /// it is one that the cache could have answered.
    Unauthenticated(CallerKey, Box<QuestionForm>),
    /// It is one, so a 200 of MAS authenticates the caller.
    Matched(CallerKey),
    /// The request was refused here with this status, and may call itself gRPC.
    GrpcReply(u16),
}

impl exchange::Watch for Watch {
    fn wants(&self) -> Wants {
        let nothing = Wants::default();
        match self {
            Self::Nothing => nothing,
            Self::HeldForBody(..) | Self::Released(_) | Self::Unauthenticated(..) => Wants {
                request_body: true,
                ..nothing
            },
            Self::Matched(_) | Self::GrpcReply(_) => Wants {
                response_headers: true,
                ..nothing
            },
        }
    }

    fn grpc_reply(status: u16) -> Self {
        Self::GrpcReply(status)
    }
}
