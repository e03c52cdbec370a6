//! Contracts: the same laws, held by every subject.

/// For each subject a module, and in it a test for each law. `$from` makes the subject, or has said why it cannot.
macro_rules! contract {
    ($from:ident: $($subject:ident)*; $($law:ident)*) => {
        contract!(@each $from [$($subject)*] [$($law)*]);
    };
    (@each $from:ident [$($subject:ident)*] $laws:tt) => {
        $( contract!(@one $from $subject $laws); )*
    };
    (@one $from:ident $subject:ident [$($law:ident)*]) => {
        mod $subject {
            $(
                #[test]
                fn $law() {
                    if let Some(subject) = super::$from::$subject() {
                        super::$law(&subject);
                    }
                }
            )*
        }
    };
}
