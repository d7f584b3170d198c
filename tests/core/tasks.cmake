espalier_test(test_tasks SOURCES core/test_tasks.cpp LIBS espalier::tasks)
