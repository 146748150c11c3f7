//! When a new validator set may take over (`spec/consensus.md` 3.4).
//!
//! Let U change validators. Its child C has to carry the certificate of U and C's child G that of C. So C is proposed and
//! voted by the old set, certifying C settles U, and the new set starts with G above a settled U: two sets never
//! certify blocks of which neither descends from the other.

use theta_core::hash::Hash;

/// Whether a child of `parent` may carry a certificate of `certified`, where `change_near` says that the parent or
/// the grandparent changes validators.
pub(crate) fn allows(parent: &Hash, change_near: bool, certified: &Hash) -> bool {
    !change_near || parent == certified
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_a_change_only_the_parent_may_be_certified() {
        let (parent, other) = (Hash::repeat_byte(1), Hash::repeat_byte(2));
        assert!(allows(&parent, true, &parent));
        assert!(!allows(&parent, true, &other));
        assert!(allows(&parent, false, &other));
    }
}
