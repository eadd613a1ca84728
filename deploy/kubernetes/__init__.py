"""What the Helm chart takes from the code, and the schemas of the custom resources that it renders."""
