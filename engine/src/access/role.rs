//! What somebody may do: the five roles, and sets of them.

/// One thing that somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Send events.
    Ingest,
    /// Read features.
    Features,
    /// Read `/metrics`.
    Metrics,
    /// Read `/api/...` and `/metrics`.
    AdminRead,
    /// Change things over `/api/...`, and read them.
    AdminWrite,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ingest, Self::Features, Self::Metrics, Self::AdminRead, Self::AdminWrite];
    /// Their names, in the same order.
    pub const NAMES: [&'static str; 5] = ["ingest", "features", "metrics", "admin-read", "admin-write"];

    /// As topologies and answers have it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The role of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Roles(u8);

impl Roles {
    /// Whether who has these roles may do what `role` stands for.
    pub fn permit(self, role: Role) -> bool {
        let also: &[Role] = match role {
            Role::Metrics => &[Role::AdminRead, Role::AdminWrite],
            Role::AdminRead => &[Role::AdminWrite],
            _ => &[],
        };
        self.has(role) || also.iter().any(|other| self.has(*other))
    }

    fn has(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |set, role| set | 1 << role as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_permits_itself_and_what_it_includes() {
        for held in Role::ALL {
            let permitted: Vec<_> = Role::ALL.into_iter().filter(|r| Roles::from_iter([held]).permit(*r)).collect();
            let expected = match held {
                Role::AdminRead => vec![Role::Metrics, Role::AdminRead],
                Role::AdminWrite => vec![Role::Metrics, Role::AdminRead, Role::AdminWrite],
                other => vec![other],
            };
            assert_eq!(permitted, expected, "{held:?}");
            assert_eq!(Role::of_name(held.name()), Some(held));
        }
        assert!(Role::ALL.into_iter().all(|role| !Roles::default().permit(role)));
    }
}
