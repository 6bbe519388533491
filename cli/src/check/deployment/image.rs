//! Which program a container image is, by its name.
//!
//! The non-obvious rule: only the last part of the name tells, without the tag. Envoy's own organisation has other images, such
//! as `envoyproxy/ratelimit` and `envoyproxy/gateway`, which are no Envoy.

/// Whether an image is an Envoy.
pub fn is_envoy(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    let name = name.split([':', '@']).next().unwrap_or_default();
    name.contains("envoy") && !name.contains("ratelimit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_the_name_tells() {
        for (image, expected) in [
            ("envoyproxy/envoy:distroless-v1.40.0", true),
            ("envoyproxy/envoy@sha256:00", true),
            ("registry:5000/edge/my-envoy", true),
            ("envoy", true),
            ("docker.io/envoyproxy/ratelimit:master", false),
            ("envoyproxy/gateway:v1.9.0", false),
            ("corp/envoy-ratelimit:1", false),
            ("corp/web:with-envoy", false),
        ] {
            assert_eq!(is_envoy(image), expected, "{image}");
        }
    }
}
