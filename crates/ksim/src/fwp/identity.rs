//! Who owns an endpoint, as callouts see it: the application's blob and the user's token.

use super::give::Arena;
use super::layout::value::{
    RawBlob, SE_GROUP_ENABLED, SidAndAttributes, SidAndAttributesHash, TokenAccessInformation,
    TokenInformation,
};
use crate::access::Out;
use crate::net::Identity;

/// `TokenPrimary`.
const TOKEN_PRIMARY: u32 = 1;

/// An identity in structures.
#[derive(Debug)]
pub(super) struct Shown {
    application: Vec<u8>,
    user: Vec<u8>,
    /// `FWP_BYTE_BLOB`: the path.
    pub(super) path: Out<RawBlob>,
    /// `FWP_BYTE_BLOB`: a `TOKEN_ACCESS_INFORMATION`.
    pub(super) token: Out<RawBlob>,
    /// The token's groups, the user first.
    pub(super) groups: Out<TokenInformation>,
    _memory: Arena,
}

/// Puts a token's access information, in one piece with all that it points at, as the system lays it out.
fn put_token(memory: &mut Arena, sids: &[&[u8]]) -> Out<RawBlob> {
    const ALIGNMENT: usize = 16;
    let mut size = 0_usize;
    let mut place = |bytes: usize| {
        let at = size;
        size += bytes.next_multiple_of(ALIGNMENT);
        at
    };
    let information = place(size_of::<TokenAccessInformation>());
    let hash = place(size_of::<SidAndAttributesHash>());
    let none = place(size_of::<SidAndAttributesHash>());
    let entries = place(sids.len() * size_of::<SidAndAttributes>());
    let places: Vec<usize> = sids.iter().map(|sid| place(sid.len())).collect();
    let block = memory.room(size);
    // The user comes first, as in the tokens of Windows.
    for (index, (sid, at)) in sids.iter().zip(places).enumerate() {
        let bytes: Out<u8> = block.offset(at);
        bytes.copy_from(sid);
        let entry = SidAndAttributes {
            sid: bytes,
            attributes: SE_GROUP_ENABLED,
        };
        block
            .offset(entries + index * size_of::<SidAndAttributes>())
            .set(entry);
    }
    let count = u32::try_from(sids.len()).unwrap_or(0);
    block.offset(hash).set(SidAndAttributesHash {
        count,
        sids: block.offset(entries),
        hash: [0; 32],
    });
    block.offset(none).set(SidAndAttributesHash {
        count: 0,
        sids: Out::null(),
        hash: [0; 32],
    });
    block.offset(information).set(TokenAccessInformation {
        sid_hash: block.offset(hash),
        restricted_sid_hash: block.offset(none),
        privileges: Out::null(),
        authentication_id: 0,
        token_type: TOKEN_PRIMARY,
        impersonation_level: 0,
        mandatory_policy: 0,
        flags: 0,
        app_container_number: 0,
        package_sid: Out::null(),
        capabilities_hash: block.offset(none),
        trust_level_sid: Out::null(),
        security_attributes: 0,
    });
    memory.put(RawBlob {
        size: u32::try_from(size).unwrap_or(0),
        data: block.offset(information),
    })
}

/// Puts a token's groups, the user first.
fn put_groups(memory: &mut Arena, sids: &[&[u8]]) -> Out<TokenInformation> {
    let entries: Vec<_> = sids
        .iter()
        .map(|sid| SidAndAttributes {
            sid: memory.put_bytes(sid),
            attributes: SE_GROUP_ENABLED,
        })
        .collect();
    let information = TokenInformation {
        count: u32::try_from(entries.len()).unwrap_or(0),
        sids: memory.put_all(&entries),
        restricted_count: 0,
        restricted_sids: Out::null(),
    };
    memory.put(information)
}

impl Shown {
    fn new(identity: &Identity) -> Self {
        let mut memory = Arena::default();
        let path = memory.put_blob(identity.application_id());
        let sids: Vec<_> = identity.token().sids().collect();
        let token = put_token(&mut memory, &sids);
        let groups = put_groups(&mut memory, &sids);
        let (application, user) = (identity.application_id().to_vec(), identity.user().to_vec());
        Self {
            application,
            user,
            path,
            token,
            groups,
            _memory: memory,
        }
    }
}

impl Shown {
    /// Whether `bytes` is the application's blob.
    pub(super) fn is_application(&self, bytes: &[u8]) -> bool {
        self.application == bytes
    }

    /// Whether `sid` is the user.
    pub(super) fn is_user(&self, sid: &[u8]) -> bool {
        self.user == sid
    }
}

/// The identities that a processor has shown, made once each.
#[derive(Debug, Default)]
pub(super) struct Identities {
    shown: Vec<Shown>,
    last: usize,
}

impl Identities {
    /// The structures of `identity`.
    pub(super) fn show(&mut self, identity: &Identity) -> &Shown {
        let (application, user) = (identity.application_id(), identity.user());
        let is_it = |shown: &Shown| shown.application == application && shown.user == user;
        if !self.shown.get(self.last).is_some_and(is_it) {
            self.last = self.shown.iter().position(is_it).unwrap_or_else(|| {
                self.shown.push(Shown::new(identity));
                self.shown.len() - 1
            });
        }
        &self.shown[self.last]
    }
}
