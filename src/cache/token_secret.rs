//! The secret under which this process names tokens. It lies in shared data, so that all workers have the same one.

use core::cell::Cell;

use crate::{
    host::Store,
    shared_data::{key_space, name},
    token::TokenSecret,
};

/// The secret as one worker knows it. `Debug` shows nothing of it.
#[derive(Debug, Default)]
pub struct SharedTokenSecret {
    shared: Cell<Option<TokenSecret>>,
    /// The worker's own, until it has that of all.
    own: Cell<Option<TokenSecret>>,
}

impl SharedTokenSecret {
    /// The secret, made by whichever worker comes first. A worker that can neither read nor write it has one of its own until it
    /// can. Meanwhile it shares no answers, cannot use another worker's, and other workers do not learn of sessions that end here.
    pub fn get(&self, store: &impl Store) -> TokenSecret {
        if let Some(shared) = self.shared.get() {
            return shared;
        }
        let own = self
            .own
            .get()
            .unwrap_or_else(|| TokenSecret::new(key_space::random(store)));
        self.own.set(Some(own));
        let shared = key_space::shared_secret(store, name::TOKEN_SECRET, own.0);
        self.shared.set(shared.map(TokenSecret::new));
        self.shared.get().unwrap_or(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{If, memory::MemoryStore};

    #[test]
    fn workers_of_one_process_name_a_token_alike_and_those_of_two_do_not() {
        let name = |store: &MemoryStore| SharedTokenSecret::default().get(store).digest(b"token");
        let [one, two] = [MemoryStore::default(), MemoryStore::default()];
        // Its random numbers go on with each write.
        two.write(b"another", b"", If::Absent).unwrap();
        assert_eq!(name(&one), name(&one));
        assert_ne!(name(&one), name(&two));
    }

    #[test]
    fn a_worker_keeps_its_secret() {
        let store = MemoryStore::default();
        let secret = SharedTokenSecret::default();
        let first = secret.get(&store).digest(b"token");
        store.damage(|value| value.fill(7));
        assert_eq!(secret.get(&store).digest(b"token"), first);
    }
}
