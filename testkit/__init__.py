"""What tests, benches and long runs share: servers, clients, images."""
