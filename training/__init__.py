"""How the embedded model is made; the service never imports this."""
