//! The `MONOFO_ARTIFACT_<NAME>_…` variables: what the environment says about one artifact, whatever asks for it.

use crate::artifact::ArtifactName;
use crate::env::Env;

/// What the variables say about one artifact. `0`, `false` and empty mean no.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switches {
    /// `_SKIP`: leave it out.
    pub skip: bool,
    /// `_SOFT_FAIL`: whether trouble is only a warning; `None` leaves it to the configuration.
    pub soft_fail: Option<bool>,
    /// `_BUILD_ID`: the variable's name, and the build to download from.
    pub build: Option<(String, String)>,
}

impl Switches {
    /// Reads the variables of this artifact.
    pub fn of(name: &ArtifactName, env: &Env) -> Self {
        let variable = |what: &str| format!("MONOFO_ARTIFACT_{}_{what}", name.variable());
        let (soft_fail, build) = (variable("SOFT_FAIL"), variable("BUILD_ID"));
        Switches {
            skip: env.switch(&variable("SKIP")),
            soft_fail: env.text(&soft_fail).map(|_| env.switch(&soft_fail)),
            build: env.text(&build).filter(|_| env.switch(&build)).map(|id| (build.clone(), id.to_owned())),
        }
    }
}
