"""What moderation did, from the verdicts that it left on `moderation.verdicts`: for operators and auditors."""
