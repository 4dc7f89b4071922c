"""What is watched while a ranker learns: gradient norms per part, proof that frozen parts are unchanged, throughput."""
