espalier_test(test_training SOURCES core/test_training_gradient.cpp core/test_training_run.cpp LIBS espalier::recover espalier::evaluate espalier::model espalier::lowrank)
