// The first thing seen: what Espalier is, three ways in, what was open lately, and whether the engine is ready.
#pragma once

#include "perplexity/status_bar.h"

#include <QStringList>
#include <QWidget>

class QAbstractButton;
class QLabel;
class QVBoxLayout;

namespace espalier
{

class StartPage final : public QWidget
{
    Q_OBJECT
public:
    explicit StartPage(QWidget* parent = nullptr);

public slots:
    void setRecent(const QStringList& paths);  // newest first; missing ones are greyed
    void setEngine(espalier::EngineState state, const QString& text);

signals:
    void openModelRequested();
    void openSessionRequested();
    void demoRequested();
    void recentRequested(const QString& path);
    void engineRestartRequested();

protected:
    void paintEvent(QPaintEvent* event) override;
    void changeEvent(QEvent* event) override;

private:
    QAbstractButton* m_demo = nullptr;
    QAbstractButton* m_restart = nullptr;
    QVBoxLayout* m_recent = nullptr;
    QLabel* m_recentCount = nullptr;
    QLabel* m_engine = nullptr;
    QLabel* m_engineIcon = nullptr;
    QStringList m_paths;
    EngineState m_state = EngineState::NotStarted;
    QString m_stateText;
};

}  // namespace espalier
