"""The command `kacc`. Modules here import TensorFlow only once a command runs."""
