"""What tests, benchmarks and long runs share: servers, clients, images."""
