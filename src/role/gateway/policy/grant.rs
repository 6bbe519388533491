//! What an active token grants on this server.

use alloc::{rc::Rc, vec::Vec};

use crate::{
    config::GrantTerms,
    mas::introspection::ActiveToken,
    matrix::{
        identity::{ScopeRights, header_value, identity, user_id_value},
        reply::Rejection,
    },
};

/// What an active token grants on this server.
#[derive(Clone, Debug)]
pub enum Grant {
    /// To act as this user, ready to be written.
    Identity(Rc<EncodedIdentity>),
    /// Nothing: Synapse refuses it so.
    Refused(Rejection),
}

/// Who a request acts as: the values of the identity headers, [encoded](header_value). The client and the scope are there only
/// where a header tells them.
#[derive(Debug)]
pub struct EncodedIdentity {
    /// `@localpart:server_name`.
    pub user_id: Vec<u8>,
    /// The device, if the token belongs to one.
    pub device_id: Option<Vec<u8>>,
    /// OAuth client id.
    pub client_id: Option<Vec<u8>>,
    /// Scope.
    pub scope: Option<Vec<u8>>,
    /// Whether the scope makes the user an administrator of the server.
    pub is_server_admin: bool,
}

impl Grant {
    /// What `token` grants on these terms. What no header tells is left out.
    pub fn new(token: &ActiveToken<'_>, terms: GrantTerms<'_>) -> Self {
        let GrantTerms {
            server_name,
            tells_client_id,
            tells_scope,
        } = terms;
        let rights = ScopeRights::of(token.scope);
        match identity(token, &rights) {
            Err(rejection) => Self::Refused(rejection),
            Ok(found) => Self::Identity(Rc::new(EncodedIdentity {
                user_id: user_id_value(found.localpart, server_name),
                device_id: found.device_id.map(header_value),
                client_id: token
                    .client_id
                    .filter(|_| tells_client_id)
                    .map(header_value),
                scope: tells_scope.then(|| header_value(token.scope)),
                is_server_admin: rights.is_server_admin,
            })),
        }
    }

    /// Bytes on the heap, for bounding what is kept.
    pub fn heap_bytes(&self) -> usize {
        let Self::Identity(identity) = self else {
            return 0;
        };
        let optional = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        size_of::<EncodedIdentity>()
            + identity.user_id.len()
            + optional(&identity.device_id)
            + optional(&identity.client_id)
            + optional(&identity.scope)
    }
}
