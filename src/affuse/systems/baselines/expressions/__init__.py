"""The networks that Table 2 of the paper on dynamic expressions (`affuse.systems.fer_ssm`) compares with, one file each."""
