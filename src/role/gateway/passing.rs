//! The ends of sessions that pass by the gateway: logouts, revocations, and tokens that the homeserver refuses
//! although the edge takes them for active.
//!
//! The non-obvious rule: all of them only make the edge ask MAS at the next request. None is taken for MAS's word that a
//! token is inactive. A refusal does not even end the answer: it is doubted, and serves on where MAS gives no other. So
//! the status alone decides, and no body of a response is read. It may be compressed, cut or of any length, and what it
//! could tell (a 401 that only asks for interactive authentication) costs one question to MAS.

use super::{
    ends::{Ending, MasReply},
    learned::Learned,
    shadow,
    watch::{Exchange, Watch},
};
use crate::{
    host::{Callback, Host, ResponseOrigin, Streams},
    metrics::{HomeserverAnswer, InvalidationReason},
    resolver::Resolver,
    role::{
        body,
        exchange::{Chunk, Phase},
        grpc,
    },
};

/// Takes in a piece of a request's body: the form of a revocation. A form whose token is not found, because it is too
/// long or Envoy does not show it, is watched no more, and ends nothing.
pub fn on_request_body(host: &impl Streams, exchange: &Exchange, chunk: Chunk) {
    let watch = exchange.take_watch();
    let Watch::Revocation(mut form) = watch else {
        exchange.set_watch(watch);
        return;
    };
    let is_too_long = chunk.size > form.room();
    let shown = body::show(host, chunk.size.min(form.room()), |piece| form.read(piece));
    if shown.is_err() {
        return;
    }
    let watch = match form.found() {
        Some(token) => Watch::revocation(token),
        None if is_too_long => return,
        None => Watch::Revocation(form),
    };
    exchange.set_watch(if chunk.is_last {
        watch.finished()
    } else {
        watch
    });
}

/// Takes in the headers of a response.
pub fn on_response_headers<H: Host, W>(
    cb: &Callback<'_, H>,
    resolver: &mut Resolver<W>,
    exchange: &Exchange,
    learned: &mut Learned,
) {
    let watch = exchange.take_watch().finished();
    if let Watch::Nothing = watch {
        return;
    }
    if let Watch::GrpcReply(status) = watch {
        grpc::restore_status(cb.host, status);
        return;
    }
    let status = cb.host.response_status();
    let is_upstream = || cb.host.response_origin() == ResponseOrigin::Upstream;
    let refused = match &watch {
        Watch::Active(token) => Some((token, InvalidationReason::Homeserver)),
        // MAS does not know the token: its session has ended elsewhere, or by the same request, which Envoy has sent twice. But
        // MAS says so of an OAuth token as well, whose session lives on. So it is a refusal and no end.
        Watch::SessionEnd(Ending { token, by, .. }) if by.is_refused_for_token() => {
            Some((token, (*by).into()))
        }
        _ => None,
    };
    if let Some((token, reason)) = refused
        && status == Some(401)
        && is_upstream()
    {
        return learned.doubt(cb, resolver, &exchange.plugin, token, reason);
    }
    match watch {
        Watch::Undecided | Watch::WouldReject(_) => {
            let answered = status.filter(|_| is_upstream());
            shadow::settle(cb.host, exchange, watch, HomeserverAnswer::of(answered));
        }
        Watch::SessionEnd(ending) => {
            let reply = match status {
                Some(200..300) => MasReply::Ended,
                _ if is_in_doubt(cb.host, status) => MasReply::Unheard,
                _ => return,
            };
            learned
                .ends
                .end(cb, resolver, &exchange.plugin, &ending, reply);
        }
        _ => {}
    }
}

/// Returns whether a response leaves open whether MAS has ended the session: Envoy has lost MAS's, a proxy before MAS has, or MAS
/// itself has failed, perhaps after it had written the end.
fn is_in_doubt(host: &impl Streams, status: Option<u16>) -> bool {
    match host.response_origin() {
        ResponseOrigin::Lost => true,
        // A status that Envoy does not show may be any.
        ResponseOrigin::Upstream => matches!(status, None | Some(500..600)),
        ResponseOrigin::Unsent => false,
    }
}

/// Takes in that the stream has ended. What is still watched for does not come any more: an end of a session that was
/// asked for may have come about without an answer, since the client hung up or the answer was lost. What shadow mode
/// waits for has not.
///
/// That holds for a request, too, of which Envoy has not seen the end: MAS ends a session when it has the head of a logout, and has
/// all of a body when it has as many bytes as the head says.
pub fn on_stream_end<H: Host, W>(
    cb: &Callback<'_, H>,
    resolver: &mut Resolver<W>,
    exchange: &Exchange,
    learned: &mut Learned,
) {
    match exchange.take_watch().finished() {
        Watch::SessionEnd(ending) if exchange.phase() == Phase::Forwarded => {
            let reply = MasReply::Unheard;
            learned
                .ends
                .end(cb, resolver, &exchange.plugin, &ending, reply);
        }
        watch => shadow::settle(cb.host, exchange, watch, HomeserverAnswer::None),
    }
}
