//! How much of all addresses some networks are.

/// The share from which on networks close nothing. The largest private network (`fc00::/7`) is an eighth of this.
const NEARLY_ALL: f64 = 1.0 / 16.0;

/// Whether networks, given by an address and the length of its prefix, are so many addresses that they close nothing:
/// `0.0.0.0/0`, or the two halves of it.
pub(super) fn are_nearly_all<'n>(networks: impl IntoIterator<Item = (&'n str, u64)>) -> bool {
    let (mut of_v4, mut of_v6) = (0.0, 0.0);
    for (address, length) in networks {
        let share = 0.5_f64.powi(i32::try_from(length).unwrap_or(i32::MAX));
        if address.contains(':') {
            of_v6 += share;
        } else {
            of_v4 += share;
        }
    }
    of_v4 >= NEARLY_ALL || of_v6 >= NEARLY_ALL
}

/// The address and the length in `10.0.0.0/8`. Without a length it is one address.
pub(super) fn network(cidr: &str) -> (&str, u64) {
    match cidr.split_once('/') {
        Some((address, length)) => (address, length.parse().unwrap_or(0)),
        None => (cidr, 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_network_closes_and_the_halves_of_all_do_not() {
        for (networks, expected) in [
            (
                &[
                    "10.0.0.0/8",
                    "172.16.0.0/12",
                    "192.168.0.0/16",
                    "100.64.0.0/10",
                ][..],
                false,
            ),
            (&["fc00::/7", "fe80::/10"], false),
            (&["203.0.113.5"], false),
            (&["0.0.0.0/0"], true),
            (&["::/0"], true),
            (&["10.0.0.0/8", "2000::/3"], true),
            (&["0.0.0.0/1", "128.0.0.0/1"], true),
        ] {
            let given = networks.iter().map(|cidr| network(cidr));
            assert_eq!(are_nearly_all(given), expected, "{networks:?}");
        }
    }
}
