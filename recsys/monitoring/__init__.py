"""What is watched while a ranker learns: gradient norms per part, proof that frozen parts stand still, throughput."""
